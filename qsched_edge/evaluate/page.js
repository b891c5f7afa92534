// Lays one of a viewer's pictures over the others: part of it by a slider, all of it in turns, or as a difference.
// Without this script the pictures stand beside each other and nothing else is lost.
"use strict";
const still = matchMedia("(prefers-reduced-motion: reduce)");
const TURN = 700; // milliseconds; slower than three flashes a second

for (const viewer of document.querySelectorAll("[data-viewer]")) {
  const pictures = [...viewer.querySelectorAll(".stage .picture")];
  const tools = viewer.querySelector(".tools");
  const [slider, base] = [tools.querySelector("input"), tools.querySelector("select")];
  const [flicker, difference] = tools.querySelectorAll("button");
  let covered = false; // while flickering: whether the base covers the others
  let timer = 0;

  const pressed = (button) => button.getAttribute("aria-pressed") === "true";
  const press = (button, on) => button.setAttribute("aria-pressed", String(on));

  function draw() {
    const over = pictures[base.value].querySelector("img").src;
    const whole = pressed(difference) || (pressed(flicker) && covered);
    const cut = whole ? 100 : pressed(flicker) ? 0 : Number(slider.value);
    pictures.forEach((picture, i) => {
      const other = i !== Number(base.value);
      picture.querySelector(".over").src = over;
      picture.querySelector(".over").hidden = !other;
      picture.classList.toggle("base", !other);
      picture.classList.toggle("difference", other && pressed(difference));
      picture.classList.toggle("sliding", other && cut > 0 && cut < 100);
      picture.style.setProperty("--cut", `${cut}%`);
    });
  }

  function stop() {
    clearInterval(timer);
    covered = false;
    press(flicker, false);
  }

  flicker.addEventListener("click", () => {
    const on = !pressed(flicker);
    press(difference, false);
    stop();
    if (on) {
      press(flicker, true);
      covered = true;
      if (!still.matches) timer = setInterval(() => { covered = !covered; draw(); }, TURN);
    }
    draw();
  });
  difference.addEventListener("click", () => {
    stop();
    press(difference, !pressed(difference));
    draw();
  });
  slider.addEventListener("input", () => { stop(); press(difference, false); draw(); });
  base.addEventListener("change", draw);
  viewer.addEventListener("keydown", (event) => { if (event.key === "Escape") { stop(); press(difference, false); draw(); } });

  for (const picture of pictures) {
    const over = picture.querySelector("img").cloneNode();
    over.className = "over";
    over.alt = "";
    picture.append(over);
    const slide = (event) => {
      if (event.type === "pointermove" && !event.buttons) return;
      const box = picture.getBoundingClientRect();
      slider.value = String(Math.round((100 * (event.clientX - box.left)) / box.width));
      slider.dispatchEvent(new Event("input"));
    };
    picture.addEventListener("pointerdown", (event) => { picture.setPointerCapture(event.pointerId); slide(event); });
    picture.addEventListener("pointermove", slide);
    picture.addEventListener("dragstart", (event) => event.preventDefault());
  }

  for (const strip of viewer.querySelectorAll(".strips li")) {
    const button = strip.querySelector("button");
    button.hidden = false;
    button.addEventListener("click", () => {
      const [here, there] = [viewer.querySelector(".prompt"), strip.querySelector("p")];
      [here.textContent, there.textContent] = [there.textContent, here.textContent];
      strip.querySelectorAll("img").forEach((small, i) => {
        const large = pictures[i].querySelector("img");
        [large.src, small.src] = [small.src, large.src];
        [large.alt, small.alt] = [small.alt, large.alt];
      });
      draw();
      viewer.scrollIntoView({ behavior: still.matches ? "auto" : "smooth" });
    });
  }

  if (still.matches) flicker.textContent = "Swap";
  tools.hidden = false;
  draw();
}
