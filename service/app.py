"""The FastAPI app: routes, errors, the outer layer. Nothing is opened before the app starts."""

import json

from fastapi import APIRouter, Depends, FastAPI
from fastapi.middleware.cors import CORSMiddleware
from fastapi.routing import APIRoute

from schemas.version import VERSION
from service.browsers import describe_cors
from service.edge import Edge, MethodTable
from service.identity import authorise
from service.observe import Observer
from service.openapi.document import build_document
from service.polls import PollPath
from service.problems import add_problem_handlers
from service.representation import Representation
from service.resources import hold_resources
from service.routes import about, artifacts, audits, deletion, events, keys, pages, plans, uploads, verdicts, webhooks
from service.settings import Settings, load_settings
from service.trail import Recorder

ROUTERS: tuple[APIRouter, ...] = (
    *(about.router, artifacts.router, audits.router, deletion.router, events.router, keys.router, pages.router, plans.router),
    *(uploads.router, verdicts.router, webhooks.router),
)


def create_app(settings: Settings | None = None) -> FastAPI:
    """Return the app for `settings`, or for those of the environment."""
    app = FastAPI(
        title="Faultline",
        version=VERSION,
        lifespan=hold_resources,
        openapi_url=None,  # the document is ours, served by routes/about.py; the framework's pages load foreign scripts
        redirect_slashes=False,
    )
    for router in ROUTERS:
        app.include_router(router, dependencies=[Depends(authorise)])
    app.state.settings = settings or load_settings()
    app.state.methods = MethodTable(find_routes())
    app.state.openapi = json.dumps(build_document(find_routes())).encode()
    app.add_middleware(PollPath, routes=find_routes())
    app.add_middleware(Recorder)
    app.add_middleware(Representation)
    app.add_middleware(Edge, methods=app.state.methods)
    if app.state.settings.cors_origins:
        app.add_middleware(CORSMiddleware, **describe_cors(app.state.settings.cors_origins))
    app.add_middleware(Observer)
    add_problem_handlers(app)
    return app


def find_routes() -> list[APIRoute]:
    """Return every route of the API."""
    return [route for router in ROUTERS for route in router.routes if isinstance(route, APIRoute)]
