"""Token sources for `sasl.XOAuth2` and `sasl.OAuthBearer`: they keep a provider's access tokens and renew them in time.

::

    source = ClientCredentials(token_endpoint="https://...", client_id="...", client_secret="...", scope="...")
    client = Client("smtp.office365.com", auth=sasl.XOAuth2("me@example.org", source))

`ClientCredentials` is for an application (Microsoft 365), `RefreshToken` for a mailbox whose user consented (Gmail,
Microsoft), `ServiceAccount` for Google Workspace. Each is the async function that the mechanisms accept; several
clients and any number of tasks may share it. A wrong argument is a ConfigurationError when a source is made. Whatever
goes wrong later is a TokenError.

authlib and httpx2 do the work: ``pip install 'smtplite[oauth]'``. They are loaded when the first source is made.
"""

from smtplite.oauth.endpoint import MAX_RESPONSE_BYTES
from smtplite.oauth.grants import ClientCredentials, RefreshToken, ServiceAccount
from smtplite.oauth.source import TokenSource

__all__ = ["MAX_RESPONSE_BYTES", "ClientCredentials", "RefreshToken", "ServiceAccount", "TokenSource"]
