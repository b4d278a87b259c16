"""One run over many workers: processes, Ray, Slurm.

    units   pieces of a run, each under a key; which of them are done
    worker  decodes a unit into the folder of responses
    spread  hands units to workers

A worker runs a unit by inspect-ai without grading; what it decodes lies in the folder of responses
under what it depends on. Units are done at least once: a unit that is done again finds its
responses there, and where it does not, decodes the same ones. The run that follows
(`command.run`) reads them all and grades them, so any number of workers gives the same rows.
"""
