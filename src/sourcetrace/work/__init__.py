"""Long work in units that are done once: by any process, in any order, across kills."""
