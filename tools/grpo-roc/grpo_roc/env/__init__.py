"""The code environment: a warm, isolated Python for programs that nobody has read (arXiv 2508.20722, section 3.1).

environment.py   runs programs: queue, deadlines, sessions; starts and watches the warm interpreters
zygote.py        a warm interpreter that forks an isolated child for each program
isolation.py     namespaces, Landlock, seccomp, limits of resources: what a child may do
seccomp.py       the filter of system calls
"""
