"""EK-FAC: covariances, eigenbases, corrected eigenvalues, preconditioner, exact products."""
