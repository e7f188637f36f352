"""DKIM signatures (RFC 6376) for `smtplite.Client(sign=...)`, over dkimpy; RSA and Ed25519 (RFC 8463).

dkimpy's own `sign` takes the key as text, parses it for each message, and computes RSA in Python. Here the key is read
once, and cryptography (OpenSSL) signs with it. dkimpy decides what is signed, and in which form.

``python signer.py example.org mail2026 key.pem`` prints the DNS record for a key.
"""

from __future__ import annotations

import base64
import hashlib
import re
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import dkim
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from dkim.canonicalization import CanonicalizationPolicy

__all__ = ["DkimSigner", "sign_with"]

#: Forms of header and body: both survive a server that folds a line again, or removes white space at its end.
POLICY: Final = CanonicalizationPolicy.from_c_value(b"relaxed/relaxed")
#: If a message has one of these fields, nobody may add a second one. A missing field may still be added on the way.
ONCE: Final = (b"from", b"reply-to", b"subject", b"date", b"to", b"cc", b"message-id", b"content-type")
#: Verifiers must not accept shorter keys (RFC 8301).
LEAST_RSA_BITS: Final = 1024

_DOMAIN: Final = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")


class DkimSigner:
    """Makes the DKIM-Signature field of a message. May be called from several threads at the same time.

    Args:
        domain: the domain that signs, such as "example.org"; for DMARC, the domain of From.
        selector: the name of the key within the domain.
        key: the private key as PEM; RSA or Ed25519.
        password: the password of the key; None: it has none.

    Raises:
        ValueError: domain, selector or key is not valid.
    """

    def __init__(self, domain: str, selector: str, key: bytes, *, password: bytes | None = None) -> None:
        for name, value in (("domain", domain), ("selector", selector)):
            if not _DOMAIN.fullmatch(value):
                raise ValueError(f"{name} is a domain name in ASCII (xn--... beyond), not {value!r}")
        loaded = load_pem_private_key(key, password)
        if isinstance(loaded, rsa.RSAPrivateKey):
            if loaded.key_size < LEAST_RSA_BITS:
                raise ValueError(f"key has {loaded.key_size} bits: make one of 2048")
            self.algorithm = "rsa-sha256"
        elif isinstance(loaded, ed25519.Ed25519PrivateKey):
            self.algorithm = "ed25519-sha256"
        else:
            raise ValueError(f"key is RSA or Ed25519, not {type(loaded).__name__}")  # noqa: TRY004 (of wrong content)
        self._key = loaded
        self.domain = domain
        self.selector = selector

    def __call__(self, message: bytes) -> bytes:
        """Return the DKIM-Signature field for a message in wire form.

        Raises:
            dkim.DKIMException: the message cannot be signed.
        """
        end = message.find(b"\r\n\r\n")
        # Only the header: dkimpy would split the body into lines too.
        header, body = (message[: end + 2], message[end + 4 :]) if end >= 0 else (message, b"")
        parsed = dkim.DKIM(header)
        parsed.add_frozen(ONCE)
        names = [name.lower() for name in parsed.default_sign_headers()]
        if b"from" not in names:
            raise dkim.ParameterError("message has no From: it cannot be signed")
        body_hash = hashlib.sha256(POLICY.canonicalize_body(body)).digest()
        field = self._field(names, base64.b64encode(body_hash).decode())
        signed = hashlib.sha256()
        dkim.hash_headers(
            signed,
            POLICY,
            POLICY.canonicalize_headers(parsed.headers),
            names,
            tuple(field.split(b":", 1)),
            {},
        )
        signature = base64.b64encode(self._sign(signed.digest())).decode()
        return field + "\r\n ".join(textwrap.wrap(signature, 72)).encode() + b"\r\n"

    def _field(self, names: list[bytes], body_hash: str) -> bytes:
        """Return the part of the field that is itself signed: everything but the signature."""
        tags = (
            f"DKIM-Signature: v=1; a={self.algorithm}; c={POLICY.to_c_value().decode()}; d={self.domain};"
            f" s={self.selector}; t={int(time.time())}; h={' : '.join(name.decode() for name in names)};"
            f" bh={body_hash};"
        )
        lines = textwrap.wrap(tags, 76, break_long_words=False, break_on_hyphens=False)
        return "\r\n ".join([*lines, "b="]).encode()

    def _sign(self, digest: bytes) -> bytes:
        if isinstance(self._key, rsa.RSAPrivateKey):
            return self._key.sign(digest, padding.PKCS1v15(), Prehashed(hashes.SHA256()))
        return self._key.sign(digest)

    @property
    def record_name(self) -> str:
        """The name of the DNS record with the public key."""
        return f"{self.selector}._domainkey.{self.domain}"

    @property
    def record(self) -> str:
        """The text of that record, of type TXT."""
        public = self._key.public_key()
        if isinstance(public, rsa.RSAPublicKey):
            kind, octets = "rsa", public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        else:
            kind, octets = "ed25519", public.public_bytes(Encoding.Raw, PublicFormat.Raw)
        return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}"


def sign_with(*signers: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    """Return a function that adds one signature of each signer: RSA for all, Ed25519 for receivers that know it."""

    def sign(message: bytes) -> bytes:
        return b"".join(signer(message) for signer in signers)

    return sign


def main() -> None:
    """Print the DNS record for a key."""
    if len(sys.argv) != 4:
        sys.exit("usage: python signer.py DOMAIN SELECTOR KEY.PEM")
    signer = DkimSigner(sys.argv[1], sys.argv[2], Path(sys.argv[3]).read_bytes())
    strings = " ".join(f'"{part}"' for part in textwrap.wrap(signer.record, 255, drop_whitespace=False))
    print(f"{signer.record_name}. IN TXT ( {strings} )")  # a string of a TXT record has at most 255 bytes


if __name__ == "__main__":
    main()
