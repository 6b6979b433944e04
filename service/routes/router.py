"""The router that all routes hang on: nothing about an answer is declared but what the route says itself."""

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute


def make_router(tag: str) -> APIRouter:
    """Return a router whose operations are named after their functions."""
    return APIRouter(tags=[tag], default_response_class=Response, generate_unique_id_function=_name_operation)


def _name_operation(route: APIRoute) -> str:
    return route.name
