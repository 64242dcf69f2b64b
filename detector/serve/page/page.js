// Sends pictures to the service and shows what it says of them. Texts of files are only ever shown as text.
"use strict";

(() => {
  const AT_ONCE = 2; // requests
  const TRIES = 6; // of a picture that the service has no room for

  const WORDS = {
    fake: "Fake: it has traces of a generator",
    real: "Real: no traces of a generator that it knows",
    unsure: "Unsure: the score is not to be relied on",
  };
  const GONE = "The service does not answer. Is it still running?";

  const find = (selector, within = document) => within.querySelector(selector);
  const status = find("#status");
  const results = find("#results");
  const waiting = [];
  let running = 0;
  let done = 0;
  let token = "";
  let limits = null;

  const announce = (text) => { status.textContent = text; };
  const headers = () => (token ? { Authorization: `Bearer ${token}` } : {});
  const pause = (seconds) => new Promise((resolve) => setTimeout(resolve, 1000 * seconds));
  const megabytes = (bytes) => `${+(bytes / 2 ** 20).toPrecision(3)} MB`;
  const percent = (share) => `${+(100 * share).toPrecision(2)} %`;

  async function ask(path, options = {}) {
    const response = await fetch(path, { ...options, headers: headers() });
    if (response.status === 401) askForToken();
    return response;
  }

  function askForToken() {
    const form = find("#token");
    if (!form.hidden) return;
    form.hidden = false;
    find("#token-field").focus();
    announce("This service asks for a token.");
  }

  async function learn() {
    try {
      const response = await ask("version");
      if (!response.ok) return;
      const found = await response.json();
      limits = found.limits;
      find("#limits-hint").textContent =
        `${limits.formats.join(", ")}, up to ${megabytes(limits.max_file_bytes)} each.`;
      find("#version").textContent =
        `npr-kernels ${found.versions["npr-kernels"]}; model ${found.model.slice(0, 12)}; ${found.decoder}`;
    } catch {
      announce(GONE);
    }
  }

  function add(files) {
    for (const file of files) {
      const item = { file, article: find("#result").content.firstElementChild.cloneNode(true) };
      const title = find("h3", item.article);
      title.textContent = file.name || "pasted picture";
      find(".remove", item.article).setAttribute("aria-label", `Remove ${title.textContent}`);
      find(".again", item.article).setAttribute("aria-label", `Try ${title.textContent} again`);
      find(".remove", item.article).addEventListener("click", () => remove(item));
      find(".again", item.article).addEventListener("click", () => enqueue(item));
      find(".map input", item.article).addEventListener("input", (event) => {
        find(".activation", item.article).style.opacity = event.target.value / 100;
      });
      results.append(item.article);
      enqueue(item);
    }
    find("#clear").hidden = !results.children.length;
  }

  function remove(item) {
    item.gone = true;
    const next = item.article.nextElementSibling || item.article.previousElementSibling;
    item.article.remove();
    find("#clear").hidden = !results.children.length;
    (next ? find(".remove", next) : find("#results-title")).focus();
    announce(`${name(item)} was removed.`);
  }

  const name = (item) => find("h3", item.article).textContent;

  function enqueue(item) {
    find(".error", item.article).hidden = true;
    find(".again", item.article).hidden = true;
    item.article.setAttribute("aria-busy", "true");
    pending(item, "Waits for its turn");
    waiting.push(item);
    if (running === 0) done = 0;
    proceed();
  }

  function pending(item, text) {
    const verdict = find(".verdict", item.article);
    verdict.className = "verdict pending";
    verdict.hidden = false;
    verdict.textContent = text;
  }

  function proceed() {
    while (running < AT_ONCE && waiting.length) {
      running += 1;
      judge(waiting.shift()).finally(() => {
        running -= 1;
        done += 1;
        if (running === 0 && waiting.length === 0 && done > 1) announce(`All ${done} pictures are done.`);
        proceed();
      });
    }
  }

  async function judge(item) {
    if (item.gone) return;
    if (limits && item.file.size > limits.max_file_bytes) {
      fail(item, `has ${megabytes(item.file.size)}, more than the limit of ${megabytes(limits.max_file_bytes)}`);
      return;
    }
    pending(item, "Is being looked at …");
    try {
      let response;
      for (let attempt = 1; ; attempt += 1) {
        const body = new FormData();
        body.append("files", item.file, name(item));
        response = await ask("v1/explain", { method: "POST", body });
        if (response.status !== 429 || attempt === TRIES) break;
        pending(item, "The service is busy; it will be asked again …");
        await pause(Number(response.headers.get("Retry-After")) || 1);
        if (item.gone) return;
      }
      const answer = await response.json();
      if (response.ok) show(item, answer);
      else fail(item, answer.error, ![413, 415, 422].includes(response.status));
    } catch {
      fail(item, GONE, true);
    }
  }

  function fail(item, reason, again = false) {
    item.article.setAttribute("aria-busy", "false");
    find(".verdict", item.article).hidden = true;
    const error = find(".error", item.article);
    error.textContent = reason === GONE ? GONE : `No verdict: it ${reason}.`;
    if (reason !== GONE && again) error.textContent = `No verdict: ${reason}.`;
    error.hidden = false;
    find(".again", item.article).hidden = !again;
    announce(`${name(item)}: ${error.textContent}`);
  }

  function show(item, { result, facts, pictures }) {
    const { article } = item;
    article.setAttribute("aria-busy", "false");
    const verdict = find(".verdict", article);
    verdict.className = `verdict ${result.verdict}`;
    verdict.textContent = WORDS[result.verdict];
    find(".words", article).textContent = words(result);
    scale(article, result);
    list(find(".doubt ul", article), (result.reasons || []).map((reason) => reason.text));
    find(".doubt", article).hidden = !(result.reasons || []).length;
    list(find(".facts", article), facts);
    draw(article, pictures);
    find(".found", article).hidden = false;
    announce(`${name(item)}: ${result.verdict}, score ${result.score.toFixed(4)}.`);
  }

  function words(result) {
    const [low, high] = result.interval;
    const side = result.score > result.threshold ? "above" : "not above";
    const read = result.exact
      ? "All of the picture was read."
      : `${percent(result.read)} of the picture was read; all of it would score ${low.toFixed(4)} to ` +
        `${high.toFixed(4)}, with a confidence of ${percent(result.confidence)}.`;
    const evidence = result.llr === undefined
      ? ""
      : ` The evidence for fake over real is 10 to the power of ${result.llr.toFixed(2)}.`;
    return `Score ${result.score.toFixed(4)}, ${side} the threshold of ${+result.threshold.toPrecision(4)}. ` +
      `${read}${evidence}`;
  }

  function scale(article, { score, interval, threshold }) {
    find(".score", article).style.left = `${100 * score}%`;
    find(".threshold", article).style.left = `${100 * threshold}%`;
    const band = find(".band", article);
    band.style.left = `${100 * interval[0]}%`;
    band.style.width = `${100 * (interval[1] - interval[0])}%`;
  }

  function list(target, lines) {
    target.replaceChildren(...lines.map((line) => {
      const entry = document.createElement("li");
      entry.textContent = line;
      return entry;
    }));
  }

  function draw(article, pictures) {
    const found = Object.fromEntries(pictures.map((picture) => [picture.name, picture]));
    const fill = (selector, picture) => {
      const image = find(selector, article);
      image.src = `data:image/png;base64,${picture.png}`;
      image.alt = picture.text;
      return image;
    };
    const [, , width, height] = found.image.region;
    for (const picture of [fill(".image", found.image), fill(".residual img", found.residual)]) {
      picture.classList.toggle("small", Math.max(width, height) <= 256);
      if (Math.max(width, height) < 320) picture.style[width >= height ? "width" : "height"] = "20rem";
    }
    const map = fill(".activation", found.activation);
    const [left, top, across, down] = found.activation.region;
    Object.assign(map.style, {
      left: `${(100 * left) / width}%`,
      top: `${(100 * top) / height}%`,
      width: `${(100 * across) / width}%`,
      height: `${(100 * down) / height}%`,
      opacity: find(".map input", article).value / 100,
    });
    fill(".spectrum img", found.spectrum);
    find(".map figcaption", article).textContent = found.activation.text;
    find(".residual figcaption", article).textContent = found.residual.text;
    find(".spectrum figcaption", article).textContent = found.spectrum.text;
  }

  const drop = find("#drop");
  const carriesFiles = (event) => event.dataTransfer && event.dataTransfer.types.includes("Files");
  document.addEventListener("dragover", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    drop.classList.remove("over");
    if (!carriesFiles(event)) return;
    event.preventDefault();
    add(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => {
    const files = event.clipboardData ? event.clipboardData.files : [];
    if (!files.length) return;
    event.preventDefault();
    add(files);
  });
  find("#files").addEventListener("change", (event) => {
    add([...event.target.files]);
    event.target.value = "";
  });
  find("#clear").addEventListener("click", () => {
    waiting.length = 0;
    results.replaceChildren();
    find("#clear").hidden = true;
    find("#results-title").focus();
    announce("All results were removed.");
  });
  find("#token").addEventListener("submit", (event) => {
    event.preventDefault();
    token = find("#token-field").value;
    event.target.hidden = true;
    find("#files").focus();
    learn();
  });
  learn();
})();
