/** A frame in which a picture forms, with its steps below it. */

/** {element, name, stock, start, preview, finish, stop, forget} for a schedule's pictures. */
export function figure(name, stock, { width, height }) {
  const element = made("figure");
  const frame = made("div", { className: "frame" });
  const steps = made("ol", { className: "steps", ariaLabel: `Steps, ${name.toLowerCase()}` });
  const caption = made("figcaption");
  const words = made("p", { textContent: "" });
  const image = made("img", { hidden: true, alt: "" });
  const hint = made("p", { textContent: "The picture forms here." });
  const urls = [];
  frame.style.aspectRatio = `${width} / ${height}`;
  frame.append(image, hint);
  caption.append(made("h2", { textContent: name }), words);
  element.append(frame, caption, steps);

  function show(picture, alt) {
    const url = URL.createObjectURL(picture);
    urls.push(url);
    Object.assign(image, { src: url, alt, hidden: false });
    hint.hidden = true;
    return url;
  }

  function keep(url) {
    const item = made("li");
    item.append(made("img", { src: url, alt: `step ${steps.children.length + 1}` }));
    steps.append(item);
  }

  return {
    element,
    name,
    stock,
    start() {
      element.classList.add("forming");
      hint.textContent = "Drawing";
    },
    preview(picture) {
      keep(show(picture, `${name}, as step ${steps.children.length + 1} sees it`));
    },
    finish(picture, { prompt, seed }, seconds) {
      const url = show(picture, `${prompt} (${name.toLowerCase()}, seed ${seed})`);
      keep(url);
      const link = made("a", { href: url, download: `${seed}${stock ? "-stock" : ""}.png`, textContent: "Save" });
      element.classList.remove("forming");
      words.replaceChildren(`${seconds.toFixed(1)} s · seed ${seed} · `, link);
    },
    stop() {
      element.classList.remove("forming");
      if (image.hidden) hint.textContent = "Not drawn";
    },
    /** Gives back the pictures' memory. */
    forget() {
      for (const url of urls) URL.revokeObjectURL(url);
    },
  };
}

function made(tag, properties = {}) {
  return Object.assign(document.createElement(tag), properties);
}
