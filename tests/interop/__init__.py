"""The client against real mail servers, each started by `launcher` on loopback."""
