"""Backbones, hash heads, preprocessing, and the Hasher that ties them."""

from hashret.model.folder import epoch_folder, is_model, kept_epochs, resolve_model
from hashret.model.hasher import Hasher, build
from hashret.model.network import HashNet
from hashret.model.preprocess import Preprocess

__all__ = ["HashNet", "Hasher", "Preprocess", "build", "epoch_folder", "is_model", "kept_epochs", "resolve_model"]
