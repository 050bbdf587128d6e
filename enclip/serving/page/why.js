/** Why a product is found: its score as bars, what each member thinks of it, what its picture shows. */
import { figure, imageOf } from "./card.js";
import { postJson } from "./service.js";

const $ = (id) => document.getElementById(id);
const PARTS = {
  cosines: ["likeness", "how much the picture is like what was asked, by the members' cosines"],
  names: ["name", "the product's name counts beside its picture"],
  exemplars: ["known pictures", "the words stand for pictures they were true of in training"],
  attributes: ["attributes", "how likely the picture shows what the words name"],
  "likely queries": ["calibration", "taken off products that resemble every search"],
  clusters: ["cluster", "pulled toward the mean of those that look like it"],
  BM25: ["words in the name", "of the search, found in the product's name"],
  "attributes by name": ["attributes, by its name", "how likely the product's name means what the words name"],
  without: ["to turn from", "the picture, or the name, shows what was not wanted"],
};
const ASKED = { text: "the words", image: "your picture", like: "the product", without: "the words to turn from" };

let asking = 0; // what is shown belongs to the last product that was asked about

/** Ask and show; `search` is the body of the search that found the product. */
export async function explain(product, search) {
  const dialog = $("why");
  const mine = ++asking;
  $("why-title").textContent = product.name || product.product_id;
  $("why-image").src = imageOf(product.product_id);
  $("why-body").replaceChildren(paragraph("…"));
  if (!dialog.open) dialog.showModal();
  try {
    const found = await postJson("v1/explain", { ...search, product_id: product.product_id });
    if (mine === asking) $("why-body").replaceChildren(...described(found));
  } catch (error) {
    if (mine === asking) $("why-body").replaceChildren(paragraph(error.message));
  }
}

function described(found) {
  const parts = Object.entries(found.parts);
  const most = Math.max(...parts.map(([, value]) => Math.abs(value)), 1e-9);
  const named = ({ values, wanted }, probability) =>
    `${values.join(" or ")} ${percent(probability)}${wanted ? "" : " (not wanted)"}`;
  const shown = found.attributes.map((one) => named(one, one.probability));
  const meant = found.attributes.filter((one) => one.by_name !== null).map((one) => named(one, one.by_name));
  const asked = Object.entries(found.cosines).map(([name, value]) => `${ASKED[name]} ${figure(value)}`);
  return [
    table(
      `Score ${figure(found.score)}`,
      ["", "adds", ""],
      parts.map(([name, value]) => [label(name), signed(value), bar(value / most)]),
    ),
    shown.length ? paragraph(`Its picture shows: ${shown.join(", ")}.`) : "",
    meant.length ? paragraph(`Its name says: ${meant.join(", ")}.`) : "",
    paragraph(`Cosines: ${asked.join(", ")}. Cluster ${found.cluster}, pull ${found.pull.toFixed(2)}, feedback ${found.feedback.toFixed(2)}.`),
    table(
      found.members.length > 1 ? `${found.members.length} members` : "One member",
      ["version", "weight", "cosine", "its own rank"],
      found.members.map(({ version, weight, cosine, rank }) => [
        String(version), percent(weight), figure(cosine), rank.toLocaleString(),
      ]),
    ),
  ].filter(Boolean);
}

function label(name) {
  const [short, long] = PARTS[name] ?? [name, ""];
  const cell = document.createElement("span");
  cell.textContent = short;
  cell.title = long;
  return cell;
}

function bar(share) {
  const well = document.createElement("span");
  well.className = share < 0 ? "bar-well less" : "bar-well";
  const fill = document.createElement("i");
  fill.style.width = `${Math.round(Math.abs(share) * 50)}%`;
  well.append(fill);
  return well;
}

function table(caption, header, rows) {
  const made = document.createElement("table");
  made.createCaption().textContent = caption;
  const head = made.createTHead().insertRow();
  for (const text of header) head.append(Object.assign(document.createElement("th"), { textContent: text, scope: "col" }));
  const body = made.createTBody();
  for (const cells of rows) {
    const row = body.insertRow();
    for (const cell of cells) row.insertCell().append(cell);
  }
  return made;
}

const paragraph = (text) => Object.assign(document.createElement("p"), { textContent: text });
const signed = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(3)}`;
const percent = (value) => `${Math.round(100 * value)}%`;
