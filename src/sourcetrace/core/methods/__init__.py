"""The methods: how each is fitted and how it scores training examples."""
