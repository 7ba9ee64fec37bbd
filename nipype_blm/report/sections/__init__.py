"""The sections of the report: each module makes what its template shows."""
