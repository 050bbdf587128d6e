import { paint } from "./colours.js";
import { hasKey, keepKey, keyHeaders } from "./key.js";
import { readPicture } from "./picture.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZES = [24, 48, 100];
const MAX_SWATCHES = 14;
const TYPING_PAUSE_MS = 300;

// What is asked for. Everything but the picture lives in the address, so that a search can be sent to a friend.
const asked = { q: "", category: "", gender: "", colour: "", similar: "", k: PAGE_SIZES[0], picture: null };
let catalog = null;
let running = null;
let pause = 0;

function readAddress() {
  const params = new URLSearchParams(location.search);
  for (const name of ["q", "category", "gender", "colour", "similar"]) asked[name] = params.get(name) ?? "";
  asked.k = PAGE_SIZES[0];
  if (asked.similar) asked.picture = null;
}

function writeAddress({ push }) {
  const params = new URLSearchParams();
  for (const name of ["q", "category", "gender", "colour", "similar"]) if (asked[name]) params.set(name, asked[name]);
  const query = params.toString();
  const address = query ? `?${query}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

async function fetchJson(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...options.headers, ...keyHeaders() } });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The search service does not answer."), { passing: true });
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  throw Object.assign(new Error(body.detail || `The service answered ${response.status}.`), {
    passing: response.status === 503 || response.status === 429,
    locked: response.status === 401,
  });
}

function searchBody() {
  const body = { k: asked.k };
  const words = asked.q || (asked.picture ? "" : filterWords());
  if (words) body.text = words;
  if (asked.picture) body.image = asked.picture.base64;
  if (asked.q && asked.picture) {
    const share = Number($("balance").value) / 100;
    body.weights = { text: 1 - share, image: share };
  }
  const filters = chosenFilters();
  if (Object.keys(filters).length) body.filters = filters;
  return body;
}

function chosenFilters() {
  const names = ["category", "gender", "colour"].filter((name) => asked[name]);
  return Object.fromEntries(names.map((name) => [name, asked[name]]));
}

/** Filters alone are a search too: for what they say. */
function filterWords() {
  return [asked.gender, asked.colour, asked.category].filter(Boolean).join(" ");
}

function ask(signal) {
  if (asked.similar) {
    const params = new URLSearchParams({ k: asked.k, ...chosenFilters() });
    return fetchJson(`v1/similar/${encodeURIComponent(asked.similar)}?${params}`, { signal });
  }
  return fetchJson("v1/search", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(searchBody()),
    signal,
  });
}

/** Show what is asked for; an older search that is still under way is given up. */
async function show({ push = false } = {}) {
  clearTimeout(pause);
  running?.abort();
  const mine = (running = new AbortController());
  writeAddress({ push });
  showControls();
  const dim = setTimeout(() => $("results").classList.add("waiting"), 150);
  try {
    if (!catalog) await loadCatalog();
    if (asked.q || asked.picture || asked.similar || filterWords()) showAnswer(await ask(mine.signal));
    else showWindow();
    $("notice").hidden = $("unlock").hidden = true;
  } catch (error) {
    if (error.name !== "AbortError") showProblem(error);
  } finally {
    clearTimeout(dim);
    if (running === mine) $("results").classList.remove("waiting");
  }
}

function titleOf(answer) {
  if (answer.product) return `Like ${answer.product.name || answer.product.product_id}`;
  if (asked.q && asked.picture) return `${asked.q}, like your picture`;
  return asked.q || (asked.picture ? "Like your picture" : filterWords());
}

async function loadCatalog() {
  catalog = await fetchJson("v1/catalog");
  fillSelect($("category"), catalog.categories, "any");
  fillSelect($("gender"), catalog.genders, "anyone");
  $("swatches").replaceChildren(...catalog.colours.map(swatchOf).filter(Boolean).slice(0, MAX_SWATCHES));
  $("examples").replaceChildren(
    ...catalog.examples.map((text) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = text;
      button.addEventListener("click", () => start({ q: text }));
      return button;
    }),
  );
  $("filters").hidden = false;
  showRelease(catalog.release);
  showControls();
}

function fillSelect(select, choices, none) {
  const options = choices.map(({ value, num_products }) => {
    const option = new Option(`${value} (${num_products.toLocaleString()})`, value);
    option.dataset.value = value;
    return option;
  });
  select.replaceChildren(new Option(none, ""), ...options);
  select.closest("label").hidden = choices.length < 2;
}

function swatchOf({ value, num_products }) {
  const background = paint(value);
  if (!background) return null;
  const button = document.createElement("button");
  button.type = "button";
  button.className = "swatch";
  button.dataset.colour = value;
  button.title = `${value} (${num_products.toLocaleString()})`;
  button.setAttribute("aria-label", value);
  const dot = document.createElement("i");
  dot.style.background = background;
  button.append(dot);
  button.addEventListener("click", () => {
    asked.colour = asked.colour === value ? "" : value;
    asked.k = PAGE_SIZES[0];
    show({ push: true });
  });
  return button;
}

function showRelease(release) {
  $("release").hidden = false;
  const name = document.createElement("b");
  name.textContent = `Release ${release}`;
  $("release").replaceChildren(name, ` · ${catalog.num_products.toLocaleString()} products`);
}

function showControls() {
  if ($("text").value.trim() !== asked.q) $("text").value = asked.q;
  for (const name of ["category", "gender"]) $(name).value = asked[name];
  for (const swatch of $("swatches").children) {
    swatch.setAttribute("aria-pressed", String(swatch.dataset.colour === asked.colour));
  }
  $("clear").hidden = !(asked.category || asked.gender || asked.colour);
  $("token").hidden = !(asked.picture || asked.similar);
  $("blend").hidden = !(asked.picture && asked.q);
  $("text").placeholder = asked.picture ? "add words, if you like" : "What are you looking for?";
  if (asked.picture) showToken(asked.picture.url, asked.picture.name);
}

/** What is searched with, inside the search field: a picture, or a product of the catalog. */
function showToken(image, text) {
  $("token-image").src = image;
  $("token-text").textContent = text;
}

function showAnswer(answer) {
  const title = titleOf(answer);
  if (answer.product) showToken(answer.product.image.slice(1), "more like this");
  $("title").textContent = title;
  const number = answer.results.length;
  $("summary").textContent = number
    ? `the best ${number}, in ${Math.max(1, Math.round(answer.took_ms))} ms`
    : "Nothing in the catalog passes these filters.";
  $("examples").hidden = true;
  document.title = `${title} · ENCLIP search`;
  showCards(answer.results);
  $("more").hidden = number < asked.k || asked.k === PAGE_SIZES.at(-1);
  if (answer.release !== catalog.release) loadCatalog().catch(showProblem);
}

function showWindow() {
  $("title").textContent = "From the catalog";
  $("summary").textContent = "a few of everything; choose one to see more like it";
  $("examples").hidden = !catalog.examples.length;
  $("more").hidden = true;
  document.title = "ENCLIP search";
  showCards(catalog.window);
}

function showCards(products) {
  const shown = $("results").children.length;
  const growing = shown > 0 && shown < products.length && asked.k > PAGE_SIZES[0];
  const cards = products.map((product, place) => cardOf(product, growing ? place - shown : place));
  $("results").replaceChildren(...cards);
}

function cardOf(product, place) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  card.style.setProperty("--place", Math.max(0, place));
  const face = card.querySelector(".face");
  const image = card.querySelector("img");
  image.alt = product.name;
  image.addEventListener("error", () => image.parentElement.classList.add("empty"));
  image.src = product.image.slice(1); // relative, so that the page works under a path of a proxy too
  card.querySelector(".name").textContent = product.name || product.product_id;
  card.querySelector(".traits").textContent = [product.article_type, product.colour].filter(Boolean).join(" · ");
  face.dataset.product = product.product_id;
  if ("score" in product) face.title = `score ${product.score.toFixed(3)} · cluster ${product.cluster}`;
  face.addEventListener("click", () => start({ similar: product.product_id }));
  return card;
}

function showProblem(error) {
  $("notice-text").textContent = error.message;
  $("notice").hidden = Boolean(error.locked);
  if (error.locked) askForKey();
  else $("unlock").hidden = true;
  if (error.passing) pause = setTimeout(show, 2000); // a service that starts or restarts is back soon
}

function askForKey() {
  $("unlock-text").textContent = hasKey() ? "The service does not know this key." : "The service asks for a key.";
  const asksAlready = !$("unlock").hidden;
  $("unlock").hidden = false;
  if (!asksAlready) $("key").focus(); // who goes on typing a search is not torn away from it
}

/** Ask for something new; filters stay where the caller does not say otherwise. */
function start(changes) {
  Object.assign(asked, { q: "", similar: "", picture: null, k: PAGE_SIZES[0] }, changes);
  scrollTo({ top: 0 });
  show({ push: true });
}

async function usePicture(file) {
  if (!file) return;
  try {
    const picture = await readPicture(file);
    start({ q: $("text").value.trim(), picture });
  } catch (error) {
    showProblem(error);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const q = $("text").value.trim();
  start({ q, picture: asked.picture });
  if (matchMedia("(hover: none)").matches) $("text").blur(); // put the phone's keyboard away
});
$("text").addEventListener("input", () => {
  clearTimeout(pause);
  pause = setTimeout(() => {
    Object.assign(asked, { q: $("text").value.trim(), similar: "", k: PAGE_SIZES[0] });
    show();
  }, TYPING_PAUSE_MS);
});
$("balance").addEventListener("change", () => show());
$("file").addEventListener("change", () => {
  usePicture($("file").files[0]);
  $("file").value = ""; // the same file can be chosen again
});
$("token-clear").addEventListener("click", () => start({ q: asked.similar ? "" : asked.q }));
for (const name of ["category", "gender"]) {
  $(name).addEventListener("change", () => {
    asked[name] = $(name).value;
    asked.k = PAGE_SIZES[0];
    show({ push: true });
  });
}
$("clear").addEventListener("click", () => {
  Object.assign(asked, { category: "", gender: "", colour: "", k: PAGE_SIZES[0] });
  show({ push: true });
});
$("more").addEventListener("click", () => {
  asked.k = PAGE_SIZES.find((size) => size > asked.k) ?? asked.k;
  show();
});
$("unlock").addEventListener("submit", (event) => {
  event.preventDefault();
  keepKey($("key").value);
  $("key").value = "";
  show();
});
$("retry").addEventListener("click", () => show());
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  start({ category: "", gender: "", colour: "" });
});

addEventListener("popstate", () => {
  readAddress();
  show();
});
addEventListener("paste", (event) => {
  const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
  if (file) usePicture(file);
});

let dragDepth = 0;
addEventListener("dragenter", () => ($("drop").hidden = ++dragDepth < 1));
addEventListener("dragleave", () => ($("drop").hidden = --dragDepth < 1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragDepth = 0;
  $("drop").hidden = true;
  usePicture(event.dataTransfer.files[0]);
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=file]), select");
  if (event.key === "/" && !typing) {
    event.preventDefault();
    $("text").focus();
    $("text").select();
  } else if (event.key === "Escape") {
    start({ category: "", gender: "", colour: "" });
    $("text").focus();
  } else if (event.key.startsWith("Arrow")) {
    walk(event);
  }
});

/** Move among the cards by arrow keys; down leaves the search field, up returns to it. */
function walk(event) {
  const faces = [...document.querySelectorAll(".face")];
  const at = faces.indexOf(document.activeElement);
  const fromText = document.activeElement === $("text");
  if (!faces.length || (at < 0 && !(fromText && event.key === "ArrowDown"))) return;
  const columns = getComputedStyle($("results")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
  const to = fromText ? 0 : at + steps[event.key];
  event.preventDefault();
  if (to < 0 && event.key === "ArrowUp") $("text").focus();
  else faces[Math.min(Math.max(to, 0), faces.length - 1)].focus();
}

readAddress();
show();
