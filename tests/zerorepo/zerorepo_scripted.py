"""A back end for tests: it answers as a function of the request."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tenfold_shared.generate import Completion


class Scripted:
    """answer: of a request to a text, or to (text, finish reason); with `error` the text is the error. Keeps what it was asked."""

    batch_size = None
    context = None
    model = "scripted"

    def __init__(self, answer: Callable[[Any], str | tuple[str, str]]) -> None:
        self.answer = answer
        self.asked: list[Any] = []

    def count_tokens(self, request: Any) -> None:
        return None

    def close(self) -> None:
        pass

    def generate(self, requests: Iterable[Any], sampling: Any) -> Iterator[Completion]:
        for request in requests:
            if request is None:
                continue
            self.asked.append(request)
            told = self.answer(request)
            text, finish = told if isinstance(told, tuple) else (told, "stop")
            error = text if finish == "error" else None
            yield Completion(request.key, "" if error else text, finish, 10, 5, "scripted", error=error)
