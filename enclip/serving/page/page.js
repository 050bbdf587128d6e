import { figure, fillFace, imageOf, money } from "./card.js";
import { paint } from "./colours.js";
import { carry, slashFocuses } from "./pages.js";
import { readPicture } from "./picture.js";
import { Question } from "./question.js";
import { fetchJson, postJson } from "./service.js";
import { whenUnlocked } from "./unlock.js";
import { explain } from "./why.js";

const $ = (id) => document.getElementById(id);
const PAGE_SIZES = [24, 48, 100];
const MAX_SWATCHES = 14;
const TYPING_PAUSE_MS = 300;
const PATIENCE_MS = 150;

// What is asked for. Everything but the picture lives in the address, so that a search can be sent to a friend.
const BOUNDS = ["price_min", "price_max"];
const IN_ADDRESS = ["q", "category", "gender", "colour", ...BOUNDS, "similar", "without", "spread"];
const TYPED = { q: "text", without: "without", price_min: "price_min", price_max: "price_max" }; // name → its field
const asked = { ...Object.fromEntries(IN_ADDRESS.map((name) => [name, ""])), k: PAGE_SIZES[0], picture: null };
const NO_FILTERS = { category: "", gender: "", colour: "", price_min: "", price_max: "", without: "", spread: "" };
let catalog = null;
let catalogOf = ""; // the filters that its counts are for
const names = new Map(); // product id → name, of what was shown
const question = new Question(show, $("results"), { patienceMs: PATIENCE_MS });

function readAddress() {
  const params = new URLSearchParams(location.search);
  for (const name of IN_ADDRESS) asked[name] = params.get(name) ?? "";
  for (const bound of BOUNDS) asked[bound] = priceOf(asked[bound]);
  asked.k = PAGE_SIZES[0];
  if (asked.similar) asked.picture = null;
}

function writeAddress({ push }) {
  const params = new URLSearchParams();
  for (const name of IN_ADDRESS) if (asked[name]) params.set(name, asked[name]);
  const query = params.toString();
  const address = query ? `?${query}` : location.pathname;
  if (address === (location.search || location.pathname)) return;
  history[push ? "pushState" : "replaceState"](null, "", address);
}

function searchBody() {
  const body = { k: asked.k };
  const words = asked.q || (asked.picture || asked.similar ? "" : filterWords());
  if (words) body.text = words;
  if (asked.picture) body.image = asked.picture.base64;
  if (asked.similar) body.like = asked.similar;
  if (asked.without) body.without = asked.without;
  if (asked.spread) body.spread = true;
  if (asked.q && (asked.picture || asked.similar)) {
    const share = Number($("balance").value) / 100;
    body.weights = { text: 1 - share, [asked.picture ? "image" : "like"]: share };
  }
  const filters = chosenFilters();
  if (Object.keys(filters).length) body.filters = filters;
  return body;
}

function chosenFilters() {
  const chosen = ["category", "gender", "colour"].filter((name) => asked[name]).map((name) => [name, asked[name]]);
  // Whoever types the higher bound first means the same range.
  const [low, high] = BOUNDS.map((name) => asked[name] && Number(asked[name]));
  const swapped = low !== "" && high !== "" && low > high;
  const bounds = { price_min: swapped ? high : low, price_max: swapped ? low : high };
  return Object.fromEntries([...chosen, ...Object.entries(bounds).filter(([, price]) => price !== "")]);
}

/** A price as it is typed; "" for what is none. */
function priceOf(text) {
  const price = Number(text);
  return text.trim() && price >= 0 && price <= 1e12 ? String(price) : "";
}

/** Filters alone are a search too: for what they say. */
function filterWords() {
  const words = [asked.gender, asked.colour, asked.category].filter(Boolean).join(" ");
  return words || (BOUNDS.some((bound) => asked[bound]) ? "products" : "");
}

function priceWords() {
  const { price_min: low, price_max: high } = chosenFilters();
  if (low === undefined && high === undefined) return "";
  if (low === undefined) return `up to ${money(high)}`;
  return high === undefined ? `from ${money(low)}` : `${money(low)} to ${money(high)}`;
}

function ask(signal) {
  return postJson("v1/search", searchBody(), { signal });
}

/** Show what is asked for. */
function show({ push = false } = {}) {
  writeAddress({ push });
  showControls();
  return question.ask(async (signal) => {
    if (!catalog || catalogOf !== filterKey()) await loadCatalog(signal);
    if (asked.similar && !names.has(asked.similar)) await learnName(asked.similar);
    if (asked.q || asked.picture || asked.similar || filterWords()) showAnswer(await ask(signal));
    else showWindow();
  });
}

/** All fields at once: whoever goes on to the next one before the pause is over means both. */
function readTyped() {
  for (const [name, id] of Object.entries(TYPED)) {
    const typed = $(id).value.trim();
    asked[name] = BOUNDS.includes(name) ? priceOf(typed) : typed;
  }
}

function titleOf() {
  const like = asked.picture ? "like your picture" : asked.similar ? `like ${nameOf(asked.similar)}` : "";
  const what = asked.q || like ? [asked.q, like].filter(Boolean).join(", ") : filterWords();
  const whole = [what, priceWords(), asked.without && `not ${asked.without}`].filter(Boolean).join(", ");
  return asked.q || !like ? whole : whole.replace("like", "Like");
}

/** A link names a product that this page has not shown yet. */
async function learnName(productId) {
  const { product } = await fetchJson(`v1/similar/${encodeURIComponent(productId)}?k=1`);
  names.set(product.product_id, product.name);
}

function filterKey() {
  return new URLSearchParams(chosenFilters()).toString();
}

/** What a product is called, as far as this page has seen it. */
function nameOf(productId) {
  return names.get(productId) || productId;
}

async function loadCatalog(signal) {
  const key = filterKey();
  catalog = await fetchJson(`v1/catalog${key && `?${key}`}`, { signal });
  catalogOf = key;
  fillSelect($("category"), catalog.categories, "any");
  fillSelect($("gender"), catalog.genders, "anyone");
  showPrices(catalog.price);
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
    option.disabled = num_products === 0;
    return option;
  });
  select.replaceChildren(new Option(none, ""), ...options);
  select.closest("label").hidden = choices.length < 2;
}

function showPrices(range) {
  $("prices").hidden = !range;
  if (!range) return;
  $("price_min").placeholder = money(Math.floor(range.min));
  $("price_max").placeholder = money(Math.ceil(range.max));
}

function swatchOf({ value, num_products }) {
  const background = paint(value);
  if (!background) return null;
  const button = document.createElement("button");
  button.type = "button";
  button.className = num_products ? "swatch" : "swatch none";
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
  carry(asked.q);
  if ($("text").value.trim() !== asked.q) $("text").value = asked.q;
  for (const name of ["category", "gender"]) $(name).value = asked[name];
  for (const swatch of $("swatches").children) {
    swatch.setAttribute("aria-pressed", String(swatch.dataset.colour === asked.colour));
  }
  $("clear").hidden = !(asked.category || asked.gender || asked.colour || BOUNDS.some((bound) => asked[bound]) || asked.without || asked.spread);
  $("token").hidden = !(asked.picture || asked.similar);
  $("blend").hidden = !((asked.picture || asked.similar) && asked.q);
  $("balance-other").textContent = asked.picture ? "picture" : "product";
  $("text").placeholder = asked.picture || asked.similar ? "add words, if you like" : "What are you looking for?";
  if ($("without").value.trim() !== asked.without) $("without").value = asked.without;
  for (const bound of BOUNDS) if (priceOf($(bound).value) !== asked[bound]) $(bound).value = asked[bound];
  $("spread").checked = Boolean(asked.spread);
  if (asked.picture) showToken(asked.picture.url, asked.picture.name);
  else if (asked.similar) showToken(imageOf(asked.similar), "like this");
}

/** What is searched with, inside the search field: a picture, or a product of the catalog. */
function showToken(image, text) {
  $("token-image").src = image;
  $("token-text").textContent = text;
}

function showAnswer(answer) {
  const title = titleOf();
  $("title").textContent = title;
  const number = answer.results.length;
  $("summary").textContent = number
    ? `the best ${number}, in ${Math.max(1, Math.round(answer.took_ms))} ms`
    : "Nothing in the catalog passes these filters. Take one of them away.";
  $("examples").hidden = true;
  document.title = `${title} · ENCLIP search`;
  showCards(answer.results);
  $("more").hidden = number < asked.k || asked.k === PAGE_SIZES.at(-1);
  if (answer.release !== catalog.release) loadCatalog().catch((error) => question.fail(error));
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
  fillFace(face, product, product.folded ? `+${product.folded} alike` : "");
  names.set(product.product_id, product.name);
  if ("score" in product) {
    card.querySelector(".found").hidden = false;
    card.querySelector(".score").textContent = figure(product.score);
    const cluster = card.querySelector(".found a");
    cluster.textContent = `cluster ${product.cluster}`;
    cluster.href = `clusters?cluster=${product.cluster}`;
    const why = card.querySelector(".why");
    why.setAttribute("aria-label", `Why ${product.name || product.product_id}?`);
    why.addEventListener("click", () => explain(product, searchBody()));
  }
  face.addEventListener("click", () => start({ similar: product.product_id }));
  return card;
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
    question.fail(error);
  }
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  readTyped();
  start({ q: asked.q, picture: asked.picture, similar: asked.similar });
  if (matchMedia("(hover: none)").matches) $("text").blur(); // put the phone's keyboard away
});
for (const id of Object.values(TYPED)) {
  $(id).addEventListener("input", () => {
    question.later(() => {
      readTyped();
      asked.k = PAGE_SIZES[0];
      show();
    }, TYPING_PAUSE_MS);
  });
}
$("spread").addEventListener("change", () => {
  Object.assign(asked, { spread: $("spread").checked ? "1" : "", k: PAGE_SIZES[0] });
  show({ push: true });
});
$("balance").addEventListener("change", () => show());
$("file").addEventListener("change", () => {
  usePicture($("file").files[0]);
  $("file").value = ""; // the same file can be chosen again
});
$("token-clear").addEventListener("click", () => start({ q: asked.q }));
for (const name of ["category", "gender"]) {
  $(name).addEventListener("change", () => {
    asked[name] = $(name).value;
    asked.k = PAGE_SIZES[0];
    show({ push: true });
  });
}
$("clear").addEventListener("click", () => {
  Object.assign(asked, NO_FILTERS, { k: PAGE_SIZES[0] });
  show({ push: true });
});
$("more").addEventListener("click", () => {
  asked.k = PAGE_SIZES.find((size) => size > asked.k) ?? asked.k;
  show();
});
whenUnlocked(() => show());
$("retry").addEventListener("click", () => show());
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  start(NO_FILTERS);
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
  if ($("why").open) return; // its own Escape closes it, and nothing else
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (slashFocuses(event, $("text"))) return;
  if (event.key === "Escape") {
    start(NO_FILTERS);
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
