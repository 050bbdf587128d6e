// One search over two releases: what differs is marked, and what people think of it is kept.
import { fillFace, imageOf } from "./card.js";
import { carry, slashFocuses } from "./pages.js";
import { Question } from "./question.js";
import { fetchJson, postJson } from "./service.js";
import { showProblem, whenUnlocked } from "./unlock.js";

const $ = (id) => document.getElementById(id);
const K = 12;
const SIDES = ["left", "right"];
const WORTH_SAYING_MS = 700; // a release that is not in memory yet takes seconds
const JUDGE = "enclip-judge";

// What is asked for lives in the address, releases by their versions, so that a link shows everybody the same.
const IN_ADDRESS = ["q", "similar", "left", "right"];
const asked = Object.fromEntries(IN_ADDRESS.map((name) => [name, ""]));
const opinions = new Map(); // what this judge said of what is shown → verdict
let releases = [];
let answer = null;
let numKept = 0;
const question = new Question(show, $("sides"), {
  patienceMs: WORTH_SAYING_MS,
  waits: () => ($("summary").textContent = "Opening the releases; the first time takes some seconds."),
  fails: () => answer || ($("summary").textContent = ""),
});

function readAddress() {
  const params = new URLSearchParams(location.search);
  for (const name of IN_ADDRESS) asked[name] = params.get(name) ?? "";
  if (asked.q) asked.similar = "";
}

function writeAddress({ push }) {
  const params = new URLSearchParams();
  for (const name of IN_ADDRESS) if (asked[name]) params.set(name, asked[name]);
  const address = `?${params}`;
  if (address !== location.search) history[push ? "pushState" : "replaceState"](null, "", address);
}

const query = () => (asked.q ? { text: asked.q } : { like: asked.similar });

/** Show what is asked for. */
function show({ push = false } = {}) {
  return question.ask(async (signal) => {
    await loadReleases(signal);
    if (releases.length < 2) return showAlone();
    chooseReleases();
    writeAddress({ push });
    showControls();
    if (!asked.q && !asked.similar) await showStart(signal);
    else showAnswer(await postJson("v1/compare", { ...query(), left: asked.left, right: asked.right, k: K }, { signal }));
  });
}

async function loadReleases(signal) {
  const found = await fetchJson("v1/releases", { signal }).catch((error) => {
    if (error.missing) error.message = "Comparing is turned off in this service.";
    throw error;
  });
  releases = found.releases;
  for (const side of SIDES) {
    $(side).replaceChildren(...releases.map((release) => new Option(described(release), release.version)));
  }
  const served = document.createElement("b");
  served.textContent = `Release ${found.served}`;
  $("release").replaceChildren(served, " answers searches");
  $("release").hidden = false;
}

function described({ version, aliases, kind, map_at_10, created_at }) {
  const figure = map_at_10 === null ? "" : `mAP@10 ${map_at_10.toFixed(3)}`;
  const name = aliases.length ? aliases : [created_at.slice(0, 10)];
  return [version, ...name, kind === "refresh" ? kind : "", figure].filter(Boolean).join(" · ");
}

/** Champion beside challenger, else beside what served before it, else beside the newest other one. */
function chooseReleases() {
  const called = (alias) => releases.find(({ aliases }) => aliases.includes(alias));
  const versionOf = (name) => called(name)?.version ?? name;
  asked.left = String(versionOf(asked.left) || (called("champion") ?? releases[0]).version);
  const others = [called("challenger"), called("previous"), ...releases].filter(Boolean);
  asked.right = String(versionOf(asked.right) || others.find(({ version }) => String(version) !== asked.left).version);
}

function showControls() {
  carry(asked.q);
  $("choice").hidden = false;
  if ($("text").value.trim() !== asked.q) $("text").value = asked.q;
  for (const side of SIDES) $(side).value = asked[side];
  $("token").hidden = !asked.similar;
  if (asked.similar) $("token-image").src = imageOf(asked.similar);
}

function showAlone() {
  clear();
  $("title").textContent = "Nothing to compare yet";
  $("summary").textContent = releases.length
    ? `Release ${releases[0].version} is the only one. The next retraining or refreshed index makes another.`
    : "There is no release yet.";
}

async function showStart(signal) {
  clear();
  $("title").textContent = "Two releases, one search";
  $("summary").textContent = "Search, look at what differs, and say which answer is better.";
  document.title = "Compare · ENCLIP search";
  const { examples } = await fetchJson("v1/catalog", { signal });
  $("examples").replaceChildren(
    ...examples.map((text) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: text });
      button.addEventListener("click", () => start({ q: text }));
      return button;
    }),
  );
  $("examples").hidden = !examples.length;
}

function clear() {
  answer = null;
  $("verdict").hidden = true;
  for (const side of SIDES) {
    $(`${side}-title`).textContent = "";
    $(`${side}-results`).replaceChildren();
  }
}

function showAnswer(found) {
  answer = found;
  const title = asked.q || `Like ${nameOf(asked.similar)}`;
  $("title").textContent = title;
  document.title = `${title} · Compare · ENCLIP search`;
  $("examples").hidden = true;
  const { left, right } = found;
  const longest = Math.max(left.results.length, right.results.length);
  const moved = right.results.filter(({ change }) => change === "up" || change === "down").length;
  const entered = right.results.filter(({ change }) => change === "entered").length;
  $("summary").textContent = longest
    ? `${found.num_shared} of ${longest} shared, overlap ${Math.round(100 * found.overlap)}% · ${entered} new · ${moved} moved`
    : "Neither release finds anything.";
  for (const side of SIDES) {
    const { release, results, took_ms } = found[side];
    const aliases = releases.find(({ version }) => version === release)?.aliases ?? [];
    const name = Object.assign(document.createElement("b"), { textContent: `Release ${release}` });
    $(`${side}-title`).replaceChildren(name, [...aliases.map((alias) => ` · ${alias}`), ` · ${Math.max(1, Math.round(took_ms))} ms`].join(""));
    $(`${side}-results`).replaceChildren(...results.map((hit) => cardOf(hit, side)));
  }
  $("verdict").hidden = left.release === right.release;
  opinions.clear(); // of the query before
  showOpinions();
  loadOpinions().catch(showBeside);
  showStanding().catch(showBeside);
}

/** A product's name, where an answer has shown it before. */
const names = new Map();
const nameOf = (productId) => names.get(productId) || productId;

function cardOf(hit, side) {
  const card = $("card").content.firstElementChild.cloneNode(true);
  const face = card.querySelector(".face");
  fillFace(face, hit);
  names.set(hit.product_id, hit.name);
  card.dataset.side = side;
  card.classList.add(hit.change);
  card.querySelector(".rank").textContent = hit.rank;
  card.querySelector(".change").textContent = badgeOf(hit, side);
  const says = spoken(hit, side);
  face.setAttribute("aria-label", `${hit.rank}: ${hit.name || hit.product_id}. ${says}`);
  card.querySelector(".marks").title = says;
  face.addEventListener("click", () => start({ similar: hit.product_id }));
  for (const event of ["pointerenter", "focusin"]) card.addEventListener(event, () => markTwins(hit.product_id));
  for (const event of ["pointerleave", "focusout"]) card.addEventListener(event, () => markTwins(""));
  const opinion = card.querySelector(".opinion");
  opinion.setAttribute("aria-label", `Is ${hit.name || hit.product_id} a good result?`);
  for (const button of opinion.children) {
    button.addEventListener("click", () => judgeResult(hit.product_id, side, button.dataset.verdict));
  }
  return card;
}

/** What becomes of it from left to right; on the left only that it is gone, on the right how it came there. */
function badgeOf({ change, rank, other_rank }, side) {
  if (change === "left") return "gone";
  if (change === "entered") return "new";
  if (side === "left" || change === "same") return "";
  return `${change === "up" ? "▲" : "▼"}${Math.abs(rank - other_rank)}`;
}

function spoken({ change, other_rank }, side) {
  const other = side === "left" ? "right" : "left";
  if (other_rank === null) return `Not among the first ${K} on the ${other}.`;
  return change === "same" ? `The same place on the ${other}.` : `Place ${other_rank} on the ${other}.`;
}

function markTwins(productId) {
  for (const face of document.querySelectorAll(".face")) {
    face.classList.toggle("twin", Boolean(productId) && face.dataset.product === productId);
  }
}

const PAIR = ""; // among what is judged; the others are product ids
const judge = () => $("by").value.trim();

function judgePair(verdict) {
  return keep(PAIR, verdict, { left: answer.left.release, right: answer.right.release });
}

function judgeResult(productId, side, verdict) {
  return keep(productId, verdict, { release: answer[side].release, product_id: productId });
}

/** What this judge said of this query before. */
async function loadOpinions() {
  const [shown, kept] = [answer, numKept];
  const { judgements } = await fetchJson(`v1/judgements?${new URLSearchParams({ ...query(), by: judge() })}`);
  if (answer !== shown) return;
  if (numKept !== kept) return loadOpinions(); // it may have been asked before the last judgement was stored
  const [left, right] = [answer.left.release, answer.right.release];
  const swapped = { better: "worse", worse: "better", same: "same" };
  opinions.clear();
  for (const said of judgements) {
    if (said.product_id) opinions.set(said.product_id, said.verdict);
    else if (said.left === left && said.right === right) opinions.set(PAIR, said.verdict);
    else if (said.left === right && said.right === left) opinions.set(PAIR, swapped[said.verdict]);
  }
  showOpinions();
}

/** Have the service store a judgement, or take it back where it is said again; shown only once that is done. */
async function keep(what, pressed, judged) {
  const [shown, by] = [answer, judge()];
  const verdict = opinions.get(what) === pressed ? "none" : pressed;
  try {
    await postJson("v1/judgements", { ...query(), ...judged, verdict, by });
    numKept += 1;
    if (answer === shown && judge() === by) {
      opinions.set(what, verdict);
      showOpinions();
    }
    await showStanding();
    $("notice").hidden = true;
  } catch (error) {
    showBeside(error, `Not stored: ${error.message}`);
  }
}

function showOpinions() {
  const press = (button, verdict) => button.setAttribute("aria-pressed", String(button.dataset.verdict === verdict));
  for (const button of $("verdict").querySelectorAll("button")) press(button, opinions.get(PAIR));
  for (const card of document.querySelectorAll(".card")) {
    const verdict = opinions.get(card.querySelector(".face").dataset.product);
    for (const button of card.querySelectorAll(".opinion button")) press(button, verdict);
  }
}

/** How the two that are shown stand by all that was judged. */
async function showStanding() {
  const found = await fetchJson("v1/judgements/summary");
  const shown = answer && [answer.left.release, answer.right.release];
  const pair = found.standings.find(({ release, against }) => shown?.includes(release) && shown.includes(against));
  $("judged").textContent = pair
    ? `Release ${pair.release} against ${pair.against} so far: ${pair.wins} better, ${pair.ties} same, ${pair.losses} worse.`
    : found.says;
}

/** Of what stands beside the answer: it is no reason to ask for the answer again. */
function showBeside(error, message = error.message) {
  showProblem({ message, locked: error.locked });
}

/** Ask for something new of the same releases. */
function start(changes) {
  Object.assign(asked, { q: "", similar: "" }, changes);
  scrollTo({ top: 0 });
  show({ push: true });
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  start({ q: $("text").value.trim() });
  if (matchMedia("(hover: none)").matches) $("text").blur(); // put the phone's keyboard away
});
$("token-clear").addEventListener("click", () => start({}));
for (const side of SIDES) {
  $(side).addEventListener("change", () => {
    asked[side] = $(side).value;
    show({ push: true });
  });
}
$("swap").addEventListener("click", () => {
  Object.assign(asked, { left: asked.right, right: asked.left });
  show({ push: true });
});
for (const button of $("verdict").querySelectorAll("button")) {
  button.addEventListener("click", () => judgePair(button.dataset.verdict));
}
$("retry").addEventListener("click", () => show());
whenUnlocked(() => show());
addEventListener("popstate", () => {
  readAddress();
  show();
});

try {
  $("by").value = localStorage.getItem(JUDGE) ?? "";
} catch {
  // A browser that keeps nothing for this page forgets the name.
}
$("by").addEventListener("change", () => {
  try {
    localStorage.setItem(JUDGE, $("by").value.trim());
  } catch {
    // As above.
  }
  if (answer) loadOpinions().catch(showBeside); // another judge said other things
});

addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
  const typing = event.target.matches("input");
  if (slashFocuses(event, $("text"))) return;
  if (event.key.startsWith("Arrow")) {
    walk(event, typing);
  } else if (event.key === "Escape") {
    start({});
    $("text").focus();
  } else if (typing || !answer) {
    return;
  } else if (["1", "2", "3"].includes(event.key)) {
    $("verdict").querySelectorAll("button")[event.key - 1].click();
  } else if (["g", "b"].includes(event.key.toLowerCase())) {
    const card = document.activeElement.closest(".card");
    card?.querySelector(`[data-verdict=${event.key.toLowerCase() === "g" ? "good" : "bad"}]`).click();
  }
});

/** Move to the nearest card in the arrow's direction; down leaves the search field, up returns to it. */
function walk(event, typing) {
  const faces = [...document.querySelectorAll(".face")];
  const from = document.activeElement;
  if (typing && from === $("text") && event.key === "ArrowDown" && faces.length) {
    event.preventDefault();
    faces[0].focus();
    return;
  }
  if (!from.matches(".face")) return;
  event.preventDefault();
  const across = event.key === "ArrowLeft" || event.key === "ArrowRight";
  const sign = event.key === "ArrowRight" || event.key === "ArrowDown" ? 1 : -1;
  const middle = (face) => {
    const { left, top, width, height } = face.getBoundingClientRect();
    return across ? [left + width / 2, top + height / 2] : [top + height / 2, left + width / 2];
  };
  const [along, aside] = middle(from);
  const steps = faces
    .map((face) => [face, ...middle(face)])
    .map(([face, a, b]) => ({ face, ahead: sign * (a - along), off: Math.abs(b - aside) }))
    .filter(({ ahead }) => ahead > 8)
    .sort((one, other) => one.ahead + 4 * one.off - (other.ahead + 4 * other.off));
  if (steps.length) steps[0].face.focus();
  else if (event.key === "ArrowUp") $("text").focus();
}

readAddress();
show();
