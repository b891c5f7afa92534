/** Drawn by the server: POST v1/images/generations as server-sent events. */

/** Calls `on` with {step, steps}, {preview}, {ahead}; gives the picture as a Blob. AbortSignal leaves the line. */
export async function draw({ prompt, negative, seed, steps, guidance, stock }, { on, signal }) {
  const body = {
    prompt,
    seed,
    num_inference_steps: steps,
    guidance_scale: guidance,
    negative_prompt: negative || null,
    schedule: stock ? "stock" : "calibrated",
    stream: true,
    partial_images: steps,
  };
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("v1/images/generations", { method: "POST", headers, body: JSON.stringify(body), signal });
  if (!response.ok) throw new Error(await reason(response));
  for await (const told of events(response.body)) {
    if (told.type === "image_generation.queued") on({ ahead: told.ahead });
    if (told.type === "image_generation.step") on({ step: told.step, steps: told.steps });
    if (told.type === "image_generation.partial_image") on({ preview: png(told.b64_json) });
    if (told.type === "image_generation.completed") return png(told.b64_json);
    if (told.type === "error") throw new Error(told.error.message);
  }
  throw new Error("the server ended before the picture was drawn");
}

async function reason(response) {
  const told = await response.json().catch(() => null);
  return told?.error?.message ?? `the server answered ${response.status}`;
}

/** The data of each server-sent event. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    const parts = text.split("\n\n");
    text = parts.pop();
    for (const part of parts) yield JSON.parse(part.slice(part.indexOf("\ndata: ") + 7));
  }
}

function png(base64) {
  return new Blob([Uint8Array.from(atob(base64), (c) => c.charCodeAt(0))], { type: "image/png" });
}
