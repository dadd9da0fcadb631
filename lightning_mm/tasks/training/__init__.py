"""How training goes, whatever the task: groups of parameters, several processes, a run that is resumed."""
