"""The server: everything on the path of a request, without torch and without the builder."""
