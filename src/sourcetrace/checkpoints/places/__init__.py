"""Where checkpoints lie: addresses, file systems, and what is fetched of them."""
