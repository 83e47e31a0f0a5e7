"""Tables of several trainings: which, how they are run, and what they say."""
