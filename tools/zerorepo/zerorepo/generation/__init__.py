"""From a specification to a tested repository: the three stages of arXiv 2509.16198.

Stage A (proposal.py) chooses features and groups them; stage B (implementation.py) gives them folders, files, data
flow and interfaces; stage C (building.py) writes each leaf test first. They hand each other graphs and skeletons, and
each is a verb of its own.
"""
