"""The paper's tables and figures as data: what to run for each, what runs can be shared, and what
the rows say beside the paper's numbers."""
