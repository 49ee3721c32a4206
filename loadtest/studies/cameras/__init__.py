"""Cameras on one server: how old what each camera knows is, by how many there are."""
