"""Architecture search for the pyramids of the neck: spaces, searchers, evaluators, rewards, and the
journal that a search is."""
