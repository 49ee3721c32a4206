"""How clients of other kinds fare: tiles of large images, Frigate's plugin, gRPC beside HTTP."""
