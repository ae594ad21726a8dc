"""From a specification to a tested repository, and from a repository back to a specification's skeleton: the three stages of
arXiv 2509.16198. They hand each other graphs and skeletons, and each is a verb of its own.

A, what it should do    spec.py reads the specification; ontology.py and sampling.py hold and draw from a tree of features;
                        proposal.py chooses and arranges them; proposing.py is the verb.
B, how it is laid out   implementation.py is the verb, designing.py asks; layout.py, flow.py, interfaces.py, importable.py and
                        scopes.py judge the answers; wording.py words the questions; blueprint.py and auxiliary.py make the files.
C, code                 order.py says what can be built; leaf.py builds one leaf, from answers read by edits.py and judged by
                        votes.py and verdict.py; building.py runs many on states.py's trees, their tests in runner.py;
                        outcome.py makes commits and graph of the results, history.py writes them; prompts.py words
                        the questions.
back                    skeleton.py takes bodies out and puts them in; stripping.py does so with a real package, rendering.py
                        without one; rebuild.py is the verb.
for all                 asking.py asks a model and keeps what it said; oracle.py answers in its place; folder.py writes a folder
                        whole; verbs.py has the verbs plan, build, run and status.
"""
