"""aider's repository map on some folders, for a number of texts each. Runs in an environment of its own, that of aider-chat.

In: a list of {root, files, issues: {id: text}} on stdin. Out: {id: [[file, line], …]}, the ranked definitions of
RepoMap.get_ranked_tags, given the identifiers and files that aider itself finds in the text (base_coder.py:
get_ident_mentions, get_file_mentions); lines 1-based. A text with no mention gives the unpersonalised ranking.
"""

import hashlib
import json
import os
import re
import sys
from pathlib import Path

from aider.repomap import RepoMap, Tag


class Quiet:
    """What RepoMap asks of aider's terminal."""

    def __init__(self):
        self.errors = []

    def read_text(self, path, silent=False):
        try:
            return Path(path).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return None

    def tool_output(self, *_words, **_more):
        pass

    def tool_warning(self, text="", **_more):
        self.errors.append(text)

    tool_error = tool_warning


KNOWN = {}  # tags of a file by its bytes: releases have most files alike


class Map(RepoMap):
    def load_tags_cache(self):
        self.TAGS_CACHE = {}  # in memory: nothing is left in the folder

    def get_tags(self, fname, rel_fname):
        key = hashlib.sha256(Path(fname).read_bytes()).digest()
        if key not in KNOWN:
            KNOWN[key] = list(self.get_tags_raw(fname, rel_fname))
        return [Tag(rel_fname, fname, tag.line, tag.name, tag.kind) for tag in KNOWN[key]]


def mentioned_files(text, files):
    """aider.coders.base_coder.Coder.get_file_mentions: whole words that are a path, or a base name that one file has."""
    words = {word.rstrip(",.!;:?") for word in text.split()}
    words = {word.strip("\"'`*_") for word in words}
    found = {file for file in files if file.replace("\\", "/") in {word.replace("\\", "/") for word in words}}
    by_name = {}
    for file in files:
        name = os.path.basename(file)
        if "/" in name or "." in name or "_" in name or "-" in name:
            by_name.setdefault(name, []).append(file)
    return found | {same[0] for name, same in by_name.items() if len(same) == 1 and name in words}


def main():
    jobs = json.load(sys.stdin)
    answers, sys.stdout = sys.stdout, sys.stderr  # what aider prints is no answer
    io = Quiet()
    found = {}
    for job in jobs:
        maps = Map(map_tokens=1024, root=job["root"], main_model=None, io=io)
        whole = [os.path.join(job["root"], file) for file in job["files"]]
        for name, text in job["issues"].items():
            idents = set(re.split(r"\W+", text))
            tags = maps.get_ranked_tags([], whole, mentioned_files(text, job["files"]), idents)
            found[name] = [[tag.rel_fname, tag.line + 1] for tag in tags if isinstance(tag, Tag)]
    if io.errors:
        raise SystemExit(io.errors[0])
    json.dump(found, answers)


main()
