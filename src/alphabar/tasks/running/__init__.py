"""How each task is planned and carried out. Imported when a task is started; the requests themselves need no torch."""
