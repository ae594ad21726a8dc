"""craft: how good is a generated repository, measured by a real package's own tests (RepoCraft, arXiv 2509.16198 §4.1, app. D).

making tasks    grouping.py says what each test is about; suite.py cuts a test file down to some of its tests; harvest.py is the
                verb; tasks.py holds the record; listing.py has the verbs sample and tasks.
scoring         locate.py finds in a repository what the real package calls by other names, by resemblance.py where no name
                says; judging.py votes on it; adapt.py rewrites the test to the names found; running.py runs it; scoring.py is
                the verb. With a model modelled.py does these steps, and asked.py words and checks what is asked.
counting        size.py counts files, lines and tokens; coverage.py places features in the taxonomy; paper.py holds what the
                paper published; report.py is the verb that compares scores.
for all         package.py: files, graph and names of a package.
"""
