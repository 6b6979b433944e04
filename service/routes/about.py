"""What the service is, whether it lives and whether it is ready."""

from fastapi import Request, Response

from schemas.about import About, Health, Limits, Readiness
from schemas.version import VERSION
from service.answers import answer_model
from service.metrics import MEDIA_TYPE, write_metrics
from service.openapi import examples
from service.openapi.declare import answers, refuses
from service.readiness import check_readiness
from service.resources import Held
from service.routes.router import make_router

router = make_router("service")

LINKS = {
    "artifacts": "/v1/artifacts/{sha256}",
    "uploads": "/v1/uploads",
    "audits": "/v1/audits",
    "plans": "/v1/audits:plan",
    "inspections": "/v1/models:inspect",
    "verdicts": "/v1/verdicts",
    "keys": "/v1/keys",
    "audit_log": "/v1/audit-log",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "health": "/healthz",
    "readiness": "/readyz",
    "metrics": "/metrics",
}


@router.get("/v1", responses=answers(200, "Version, limits and links.", About, examples.ABOUT) | refuses())
async def get_about(held: Held) -> Response:
    """Tell the version, the limits of this server and where its parts are."""
    settings = held.settings
    limits = Limits(
        upload_bytes=settings.max_upload_bytes,
        request_bytes=settings.max_request_bytes,
        verdict_bytes=settings.max_verdict_bytes,
        wait_s=settings.max_wait_s,
    )
    return answer_model(About(name="faultline", version=VERSION, commit=settings.commit, limits=limits, links=LINKS))


@router.get("/healthz", responses=answers(200, "The process answers.", Health, examples.HEALTH) | refuses())
async def get_health() -> Response:
    """Tell that the process answers; nothing else is looked at."""
    return answer_model(Health(status="alive"))


@router.get("/readyz", responses=answers(200, "Broker, store and workers are there.", Readiness, examples.READINESS) | refuses())
async def get_readiness(held: Held) -> Response:
    """Tell whether audits would be taken and worked on: store, disk, and workers that really take them."""
    return answer_model(await check_readiness(held.queue, held.artifacts, held.settings))


@router.get("/metrics", include_in_schema=False)
async def get_metrics(held: Held) -> Response:
    """Return what is counted, as Prometheus reads it."""
    return Response(await write_metrics(held.queue, held.settings.device), media_type=MEDIA_TYPE)


@router.get("/openapi.json", include_in_schema=False)
async def get_openapi(request: Request) -> Response:
    """Return the OpenAPI document."""
    return Response(request.app.state.openapi, media_type="application/json")
