"""LiveCodeBench: programs that are run on tests.

problems  records of the public files, by release and date of the contest
tests     public and private tests, read without unpickling
programs  the program in a response, and what is put around it in the box
inside    the two ways of running, as text that runs in the box
judge     outputs compared outside of the box
"""
