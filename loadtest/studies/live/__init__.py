"""Study of Punctual and its peers on this machine, under the same requests."""
