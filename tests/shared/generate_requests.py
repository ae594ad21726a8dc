"""Requests of the tests of the backends."""

import msgspec


def by_key(completions):
    return {completion.key: completion for completion in completions}


def encoded(completions):
    return b"\n".join(msgspec.json.encode(completion) for completion in completions)
