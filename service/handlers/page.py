"""``/``: the ops page. It holds no data: what it shows it asks the API for, with the reader's own key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Request, Response

from service.errors import NotFoundError

if TYPE_CHECKING:
    from service.web.site import Site

router = APIRouter(include_in_schema=False)

READING = ["GET", "HEAD"]
PAGE_POLICY = (
    "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
"""No inline script or style, nothing from another origin, no text that becomes markup."""

FOR_EVER = "public, max-age=31536000, immutable"


def _site_of(request: Request) -> Site:
    return request.app.state.site


@router.api_route("/", methods=READING)
async def page(request: Request) -> Response:
    """Answer the page; a browser that has it is told so."""
    site = _site_of(request)
    headers = {"ETag": site.page_tag, "Cache-Control": "no-cache", "Content-Security-Policy": PAGE_POLICY}
    if request.headers.get("if-none-match") == site.page_tag:
        return Response(status_code=304, headers=headers)
    return Response(site.page, headers=headers, media_type="text/html; charset=utf-8")


@router.api_route("/static/{digest}/{name:path}", methods=READING)
async def asset(request: Request, digest: str, name: str) -> Response:
    """Answer a file of the page; it never changes under its address."""
    site = _site_of(request)
    found = site.assets.get(name)
    if found is None or digest != site.digest:
        raise NotFoundError("names no file of this release; load the page again")
    return Response(found.content, headers={"Cache-Control": FOR_EVER}, media_type=found.media_type)
