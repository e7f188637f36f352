"""The page of `smtplite serve --web`: see the mail that was caught. It needs the extra ``web``."""
