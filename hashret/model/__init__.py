"""Backbones, hash heads, preprocessing, and the Hasher that ties them."""
