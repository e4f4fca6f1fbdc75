"""Samplers for pi(y|x)^alpha: exact Metropolis-Hastings over KV-cached, asynchronous slots."""
