/** The clusters of the release that answers: a map, a list, and what one cluster holds. */
import { imageOf } from "./card.js";
import { paint } from "./colours.js";
import { PointMap } from "./map.js";
import { fetchJson } from "./service.js";
import { showProblem, stopAsking, whenUnlocked } from "./unlock.js";

const $ = (id) => document.getElementById(id);
const CLUSTERS_PAGE = 500;
const PRODUCTS_PAGE = 12;
const SUSPECTS_PAGE = 8;
const MAX_RELOADS = 3; // of a release that changes while its parts are asked for
const IN_LEGEND = 12;
const LABELS = { article_type: "type", base_colour: "colour", gender: "gender" };

// What is looked at; it lives in the address. `cluster` is a number as text, "" for none.
const shown = { cluster: "", colour: "cluster" };
let release = null; // { release, num_products, has_map, has_suspects, clusters }
let drawn = null; // the map's columns
let order = new Map(); // cluster → its place by size
let sort = { by: "num_products", down: true };
let asking = 0; // what is shown belongs to the last question
let pause = 0;

const map = new PointMap($("canvas"), { onHover: showTip, onPick: (place) => choose(String(drawn.cluster[place])) });

function readAddress() {
  const params = new URLSearchParams(location.search);
  shown.cluster = params.get("cluster") ?? "";
  shown.colour = params.get("colour") === "category" ? "category" : "cluster";
}

function writeAddress() {
  const params = new URLSearchParams();
  if (shown.cluster) params.set("cluster", shown.cluster);
  if (shown.colour !== "cluster") params.set("colour", shown.colour);
  const query = params.toString();
  const address = query ? `?${query}` : location.pathname;
  if (address !== (location.search || location.pathname)) history.pushState(null, "", address);
}

async function load() {
  clearTimeout(pause);
  const mine = ++asking;
  try {
    const found = await loadRelease();
    if (mine !== asking) return;
    [release, drawn] = found;
    order = new Map(release.clusters.map(({ cluster }, place) => [cluster, place]));
    $("notice").hidden = true;
    stopAsking();
    showRelease();
    await showChosen();
  } catch (error) {
    if (mine === asking) showFailure(error);
  }
}

/** Clusters and map of one release, however the service's release moves meanwhile. */
async function loadRelease() {
  for (let reloads = 0; ; reloads += 1) {
    const first = await fetchJson(`v1/clusters?k=${CLUSTERS_PAGE}`);
    const parts = [first];
    while (parts.length * CLUSTERS_PAGE < first.num_clusters) {
      parts.push(await fetchJson(`v1/clusters?k=${CLUSTERS_PAGE}&offset=${parts.length * CLUSTERS_PAGE}`));
    }
    const columns = first.has_map ? await fetchJson("v1/map") : null;
    const same = [...parts, columns ?? first].every((part) => part.release === first.release);
    if (same) return [{ ...first, clusters: parts.flatMap((part) => part.clusters) }, columns];
    if (reloads === MAX_RELOADS) throw new Error("The release changed again and again while it was loaded.");
  }
}

function showRelease() {
  const number = release.num_clusters;
  $("release").replaceChildren(bold(`Release ${release.release}`), ` · ${count(release.num_products)} products`);
  $("release").hidden = false;
  $("atlas").hidden = false;
  $("map").hidden = !drawn;
  $("atlas").classList.toggle("alone", !drawn);
  $("mapless").hidden = Boolean(drawn);
  $("mapless").textContent = `Release ${release.release} was built before maps were stored. A refresh builds one with a map.`;
  $("suspects-head").hidden = !release.has_suspects;
  $("marking").hidden = !(drawn?.suspect.length > 0);
  $("summary").textContent = [
    `${count(number)} ${number === 1 ? "group" : "groups"} of products that look alike`,
    drawn && drawn.product_id.length < drawn.num_products ? `${count(drawn.product_id.length)} of them on the map` : "",
  ].filter(Boolean).join("; ");
  for (const input of document.querySelectorAll("[name=colour]")) input.checked = input.value === shown.colour;
  if (drawn) map.points = drawn;
  showMap();
  showRows();
}

/** Colours, names and light on the map, as the address says. */
function showMap() {
  if (!drawn) return;
  const byCategory = shown.colour === "category";
  const places = new Map();
  (byCategory ? drawn.category : drawn.cluster).forEach((group, place) => {
    if (!places.has(group)) places.set(group, []);
    places.get(group).push(place);
  });
  // The largest first, so that small ones lie on top.
  const groups = [...places].sort(([, left], [, right]) => right.length - left.length);
  map.groups = groups.map(([group, members]) => ({
    colour: byCategory ? categoryColour(group) : clusterColour(group),
    places: members,
  }));
  const lit = release.clusters.find(({ cluster }) => String(cluster) === shown.cluster)?.cluster ?? null;
  map.lit = lit === null ? null : (place) => drawn.cluster[place] === lit;
  const named = release.clusters.filter(({ centre, cluster }) => centre && (lit === null || cluster === lit));
  map.labels = named.map(({ name, centre }) => ({ text: name, x: centre[0], y: centre[1] }));
  map.marks = $("mark").checked ? drawn.suspect : [];
  showLegend(byCategory);
}

function showLegend(byCategory) {
  $("legend").hidden = !byCategory;
  const named = drawn.categories.slice(0, IN_LEGEND).map((name, place) => [name, categoryColour(place)]);
  const others = drawn.category.some((code) => code >= IN_LEGEND) ? [["others", categoryColour(IN_LEGEND)]] : [];
  const none = drawn.category.includes(-1) ? [["no category", categoryColour(-1)]] : [];
  $("legend").replaceChildren(...[...named, ...others, ...none].map(([name, colour]) => item(dot(colour), name)));
}

/** Far apart for numbers that are near; the largest clusters get the first ones. */
function hue(number) {
  const turned = (number * 137.508 + 20) % 360;
  return `hsl(${turned.toFixed(0)} ${[62, 48, 70][number % 3]}% ${[46, 58, 38][number % 3]}%)`;
}

function clusterColour(cluster) {
  return hue(order.get(cluster));
}

function categoryColour(code) {
  return code < 0 || code >= IN_LEGEND ? "#8b867c" : hue(code);
}

function showRows() {
  const { by, down } = sort;
  const value = (cluster) => (by === "name" ? cluster.name.toLowerCase() : (cluster[by] ?? -1));
  const ordered = [...release.clusters].sort((left, right) => {
    const [a, b] = [value(left), value(right)];
    return (a < b ? -1 : a > b ? 1 : 0) * (down ? -1 : 1) || left.cluster - right.cluster;
  });
  for (const head of document.querySelectorAll("#list th")) {
    const mine = head.firstElementChild.dataset.sort === by;
    head.setAttribute("aria-sort", mine ? (down ? "descending" : "ascending") : "none");
  }
  $("rows").replaceChildren(...ordered.map(rowOf));
}

function rowOf(cluster) {
  const row = document.createElement("tr");
  const head = Object.assign(document.createElement("th"), { scope: "row" });
  const button = Object.assign(document.createElement("button"), { type: "button", className: "open" });
  button.dataset.cluster = cluster.cluster;
  button.append(dot(clusterColour(cluster.cluster)), span("label", cluster.name), strip(cluster.pictures));
  button.addEventListener("click", () => choose(String(cluster.cluster)));
  head.append(button);
  row.append(head);
  row.insertCell().textContent = count(cluster.num_products);
  row.insertCell().append(purityBar(cluster));
  if (release.has_suspects) row.insertCell().textContent = count(cluster.num_suspects);
  return row;
}

function strip(products) {
  const made = span("strip", "");
  made.append(...products.slice(0, 3).map((product) => picture(product.product_id, "")));
  return made;
}

function purityBar({ purity, category }) {
  if (purity === null) return "–";
  const bar = span("purity-bar", "");
  const fill = document.createElement("i");
  fill.style.width = `${Math.round(purity * 100)}%`;
  bar.append(fill);
  bar.title = `${percent(purity)} ${category}`;
  const whole = span("purity-cell", "");
  whole.append(bar, percent(purity));
  return whole;
}

/** Show the chosen cluster, or the list. */
async function showChosen() {
  const mine = asking;
  if (shown.cluster === "") {
    showList();
    return;
  }
  const path = `v1/clusters/${encodeURIComponent(shown.cluster)}`;
  const [products, suspects] = await Promise.all([
    fetchJson(`${path}?k=${PRODUCTS_PAGE}`),
    fetchJson(`${path}?k=${SUSPECTS_PAGE}&suspects=true`),
  ]);
  if (mine !== asking) return;
  if (products.release !== release.release || suspects.release !== release.release) {
    load();
    return;
  }
  showPanel(products.cluster);
  $("panel-products").replaceChildren();
  $("panel-suspects").replaceChildren();
  addProducts(products);
  addSuspects(suspects);
}

function showList() {
  document.title = "Clusters · ENCLIP search";
  $("list").hidden = false;
  $("panel").hidden = true;
}

function showPanel(cluster) {
  document.title = `${cluster.name} · Clusters · ENCLIP search`;
  $("list").hidden = true;
  $("panel").hidden = false;
  $("panel-name").textContent = cluster.name;
  $("panel-dot").style.background = clusterColour(cluster.cluster);
  $("panel-of").textContent = [
    `cluster ${cluster.cluster}`,
    `${count(cluster.num_products)} ${cluster.num_products === 1 ? "product" : "products"}`,
    `tightness ${cluster.tightness.toFixed(2)}`,
  ].join(" · ");
  $("panel-purity").replaceChildren(
    ...(cluster.purity === null
      ? ["No product of it has a category."]
      : [purityBar(cluster), ` of those with a category are ${cluster.category}`]),
  );
  $("panel-types").replaceChildren(...cluster.types.map(({ value, num_products }) => item(value, quiet(count(num_products)))));
  $("panel-colours").replaceChildren(
    ...cluster.colours.map(({ value, num_products }) => item(dot(paint(value)), value, quiet(count(num_products)))),
  );
}

function addProducts({ products, total }) {
  $("panel-products").append(...products.map((product) => thumb(product)));
  $("panel-more").hidden = $("panel-products").children.length >= total;
}

function addSuspects({ products, total }) {
  $("panel-suspects-title").textContent = release.has_suspects && total ? `Labels to look at (${count(total)})` : "Labels to look at";
  $("panel-suspects-says").textContent = release.has_suspects
    ? total
      ? "Products with a label that the most similar pictures contradict, the surest first. Nothing is changed by itself."
      : "No label of its products is contradicted by the most similar pictures."
    : `Release ${release.release} was built before these were stored. A refresh builds one with them.`;
  $("panel-suspects").append(...products.map(suspectOf));
  $("suspects-more").hidden = $("panel-suspects").children.length >= total;
}

function thumb(product) {
  const link = linkTo(product.product_id);
  link.title = product.name;
  link.append(picture(product.product_id, ""), span("label", product.name || product.product_id));
  return item(link);
}

function suspectOf(product) {
  const link = linkTo(product.product_id);
  link.className = "whole";
  link.append(picture(product.product_id, product.name));
  const says = document.createElement("div");
  says.append(span("label", product.name || product.product_id));
  for (const { attribute, given, proposed, support, given_support, evidence } of product.suspects) {
    const line = document.createElement("p");
    line.append(`${LABELS[attribute] ?? attribute} `, struck(given), " → ", bold(proposed));
    const votes = quiet(`its neighbours: ${percent(support)} ${proposed}, ${percent(given_support)} ${given}`);
    const like = span("strip", "");
    for (const product_id of evidence) {
      const other = linkTo(product_id);
      other.title = `a neighbour labelled ${proposed}`;
      other.append(picture(product_id, `a neighbour labelled ${proposed}`));
      like.append(other);
    }
    says.append(line, votes, like);
  }
  const search = linkTo(product.product_id);
  search.className = "go-on";
  search.textContent = "Search like this";
  says.append(search);
  return item(link, says);
}

function showTip(place, x, y) {
  $("tip").hidden = place === null;
  if (place === null) return;
  const cluster = release.clusters.find((other) => other.cluster === drawn.cluster[place]);
  const source = imageOf(drawn.product_id[place]);
  if ($("tip-image").getAttribute("src") !== source) $("tip-image").src = source;
  $("tip-name").textContent = drawn.name[place] || drawn.product_id[place];
  $("tip-cluster").textContent = [drawn.categories[drawn.category[place]], cluster?.name].filter(Boolean).join(" · in ");
  const { clientWidth, clientHeight } = $("canvas");
  const { offsetWidth, offsetHeight } = $("tip");
  $("tip").style.left = `${Math.max(4, Math.min(x + 14, clientWidth - offsetWidth - 4))}px`;
  $("tip").style.top = `${y + 14 + offsetHeight > clientHeight ? Math.max(4, y - offsetHeight - 14) : y + 14}px`;
}

/** Open a cluster, or with "" the list. */
async function choose(cluster) {
  const before = shown.cluster;
  shown.cluster = cluster;
  writeAddress();
  await follow();
  if (cluster) $("back").focus({ preventScroll: true });
  else document.querySelector(`.open[data-cluster="${CSS.escape(before)}"]`)?.focus();
  // Below the map on a phone, and beside it where a long cluster was scrolled through.
  const away = matchMedia("(max-width: 900px)").matches || $("side").getBoundingClientRect().top < 0;
  if (cluster && away) $("side").scrollIntoView({ block: "start" });
}

/** Show what the address says of a release that is here already. */
async function follow() {
  asking += 1;
  $("notice").hidden = true;
  for (const input of document.querySelectorAll("[name=colour]")) input.checked = input.value === shown.colour;
  showMap();
  try {
    await showChosen();
  } catch (error) {
    showFailure(error);
  }
}

async function more(kind, list, add) {
  const mine = asking;
  const path = `v1/clusters/${encodeURIComponent(shown.cluster)}?${kind}&offset=${list.children.length}`;
  try {
    const page = await fetchJson(path);
    if (mine !== asking) return;
    if (page.release !== release.release) load();
    else add(page);
  } catch (error) {
    showFailure(error);
  }
}

function showFailure(error) {
  showList(); // the way on, where it was a cluster that could not be shown
  pause = showProblem(error, load) ?? pause;
}

const count = (number) => number.toLocaleString();
// 100% is said of all, and of no less.
const percent = (share) => `${share < 1 ? Math.min(99, Math.round(100 * share)) : 100}%`;
const span = (className, textContent) => Object.assign(document.createElement("span"), { className, textContent });
const quiet = (text) => Object.assign(document.createElement("small"), { textContent: text });
const bold = (text) => Object.assign(document.createElement("b"), { textContent: text });
const struck = (text) => Object.assign(document.createElement("s"), { textContent: text });

function item(...parts) {
  const made = document.createElement("li");
  made.append(...parts);
  return made;
}

function dot(background) {
  const made = document.createElement("i");
  made.className = "dot";
  made.style.background = background;
  return made;
}

function picture(productId, alt) {
  const made = Object.assign(new Image(), { loading: "lazy", decoding: "async", alt });
  made.addEventListener("error", () => made.classList.add("missing"));
  made.src = imageOf(productId);
  return made;
}

function linkTo(productId) {
  const made = document.createElement("a");
  made.href = `./?similar=${encodeURIComponent(productId)}`;
  return made;
}

for (const button of document.querySelectorAll("[data-sort]")) {
  button.addEventListener("click", () => {
    const by = button.dataset.sort;
    sort = { by, down: sort.by === by ? !sort.down : by !== "name" };
    showRows();
  });
}
for (const input of document.querySelectorAll("[name=colour]")) {
  input.addEventListener("change", () => {
    shown.colour = input.value;
    writeAddress();
    showMap();
  });
}
$("mark").addEventListener("change", () => showMap());
$("closer").addEventListener("click", () => map.zoomBy(1.5));
$("farther").addEventListener("click", () => map.zoomBy(1 / 1.5));
$("whole").addEventListener("click", () => map.showAll());
$("back").addEventListener("click", () => choose(""));
$("panel-more").addEventListener("click", () => more(`k=${PRODUCTS_PAGE}`, $("panel-products"), addProducts));
$("suspects-more").addEventListener("click", () => more(`k=${SUSPECTS_PAGE}&suspects=true`, $("panel-suspects"), addSuspects));
$("retry").addEventListener("click", () => load());
whenUnlocked(() => load());
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && shown.cluster && release) choose("");
});
addEventListener("popstate", () => {
  readAddress();
  if (release) follow();
});

readAddress();
load();
