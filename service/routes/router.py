"""The router that all routes hang on: nothing about an answer is declared but what the route says itself."""

from fastapi import APIRouter, Response
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from service.observe import note_route


class NotedRoute(APIRoute):
    """A route that says which one it is: metrics and traces know requests by the template of their path."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request of this route."""
        note_route(self.path)
        await super().handle(scope, receive, send)


def make_router(tag: str) -> APIRouter:
    """Return a router whose operations are named after their functions."""
    return APIRouter(
        tags=[tag], default_response_class=Response, generate_unique_id_function=_name_operation, route_class=NotedRoute
    )


def _name_operation(route: APIRoute) -> str:
    return route.name
