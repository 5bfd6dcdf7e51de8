"""The EK-FAC curvature of every segment: the set-up, eigenbases and corrected eigenvalues."""
