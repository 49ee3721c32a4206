"""The documentation: its pages, what is generated into them, and what builds the site."""
