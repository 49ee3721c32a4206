"""The builder's commands of ``punctual``, one file each; heavy imports wait for the command."""
