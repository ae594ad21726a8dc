"""A corpus, a swarm and an agent to explain."""

from datamix import explain
from datamix.history import Budget
from datamix.proxy import ProxyConfig

PROXY = ProxyConfig(width=8, context=16, batch=4, base_updates=20)
BUDGET = Budget(tokens=16 * 4 * 2, steps=4, source_share=0.4)
NAMES = ("web", "books", "math", "code")


SETTINGS = explain.Settings(tasks=2, seeds=2, feedback_tokens=128, score_tokens=400)
