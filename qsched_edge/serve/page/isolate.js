/** A service worker for hosts whose headers cannot be set: it adds those that let WASM use several threads. */

const HEADERS = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
  "Cross-Origin-Resource-Policy": "same-origin",
};

self.addEventListener("install", () => self.skipWaiting());
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { request } = event;
  const ours = new URL(request.url).origin === self.location.origin;
  if (request.method === "GET" && ours) event.respondWith(isolated(request));
});

async function isolated(request) {
  const { status, statusText, headers, body } = await fetch(request);
  const more = new Headers(headers);
  for (const [name, value] of Object.entries(HEADERS)) more.set(name, value);
  return new Response(status === 204 || status === 304 ? null : body, { status, statusText, headers: more });
}
