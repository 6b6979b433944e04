"""The OpenAPI document: what each route answers, with examples."""
