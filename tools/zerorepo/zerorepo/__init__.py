"""zerorepo: a map of any repository, after arXiv 2509.16198 (ZeroRepo) and 2602.02084 (RPG-Encoder)."""

from zerorepo.encode import Change, encode, update
from zerorepo.graph import SCHEMA, Edge, Graph, Node
from zerorepo.modules import dotted_prefix
from zerorepo.sources import Commit, WorkTree

__version__ = "0.1.0"

__all__ = ["SCHEMA", "Change", "Commit", "Edge", "Graph", "Node", "WorkTree", "dotted_prefix", "encode", "update"]
