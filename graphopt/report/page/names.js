// A picture with its names: what kinds share, and what each group puts in.

class Picture {
  constructor(data, types) {
    this.types = types;
    this.kinds = data.kinds;
    this.groups = data.groups;
    this.outputs = new Set(data.outputs);
    this.inputs = new Map(data.inputs);
    this.makers = new Map();
    this.members = this.kinds.map(() => []);
    this.count = 0;
    this.groups.forEach((group, number) => {
      group.number = number;
      this.members[group.kind].push(group);
      const kind = this.kinds[group.kind];
      this.count += kind.items.length;
      kind.items.forEach((item, position) => {
        for (const value of [...item.out, ...item.nodes.flatMap((node) => node[2])])
          if (!this.makers.has(group.values[value])) this.makers.set(group.values[value], [number, position]);
      });
    });
    // Kinds that several layers share are called A, B, C.
    let letter = 0;
    this.letters = this.kinds.map((_, kind) => {
      const layered = this.members[kind][0].layer !== null;
      return layered ? letterOf(letter++) : "";
    });
    this.layered = letter;
  }

  kind(group) {
    return this.kinds[group.kind];
  }

  title(group) {
    if (group.layer !== null) return `layer ${group.layer}`;
    const layers = this.groups.filter((other) => other.layer !== null);
    if (!layers.length) return this.groups.length > 1 ? `part ${group.number + 1}` : "all of it";
    return group.number < layers[0].number ? "before the layers" : "after the layers";
  }

  // The running number of a box.
  position(group, item) {
    return Array.isArray(group.at) ? group.at[item] : group.at + item;
  }

  scope(group, pattern) {
    return group.layer === null ? pattern : pattern.replace("*", group.layer);
  }

  name(group, reference) {
    if (typeof reference === "number") return `%${group.values[reference]}`;
    const number = Number(reference.slice(1));
    return reference[0] === "w" ? `@${group.weights[number]}` : `%${group.ports[number]}`;
  }

  type(group, reference) {
    const kind = this.kind(group);
    if (typeof reference === "number") return this.types[kind.types[reference]];
    const number = Number(reference.slice(1));
    return this.types[(reference[0] === "w" ? kind.weightTypes : kind.portTypes)[number]];
  }

  // [group, item] that makes a value; nothing for the graph's inputs and weights.
  maker(name) {
    return this.makers.get(name.replace(/^%/, ""));
  }

  attributes(group, node) {
    const layer = node[4] === null ? [] : [`layer = ${group.state + node[4]}`];
    return [...layer, ...(node[3] ? [node[3]] : [])].join(", ");
  }

  place(group, node) {
    const module = node[6] && `in ${this.scope(group, node[6])}`;
    return [node[5], module].filter(Boolean).join(" ");
  }

  // The line of a node in the graph's text form.
  line(group, node) {
    const results = node[2].map((v) => `${this.name(group, v)}: ${this.type(group, v)}`).join(", ");
    const inputs = node[1].map((v) => this.name(group, v)).join(", ");
    const attributes = this.attributes(group, node);
    const place = this.place(group, node);
    return `${results} = ${node[0]}(${inputs})` +
      (attributes && ` {${attributes}}`) + (place && `  // ${place}`);
  }

  // What a search looks through.
  haystack(group, item) {
    const names = [...item.out, ...item.in].map((v) => this.name(group, v));
    const places = item.nodes.map((node) => `${node[0]} ${node[5]} ${node[6] ? this.scope(group, node[6]) : ""}`);
    return [item.name, this.scope(group, item.scope), ...names, ...places, item.kernel ?? ""]
      .join("\n").toLowerCase();
  }

  // All boxes that hold every word, as [group, item], in running order.
  search(text) {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    if (!words.length) return [];
    const found = [];
    this.groups.forEach((group, number) => {
      this.kind(group).items.forEach((item, position) => {
        const hay = this.haystack(group, item);
        if (words.every((word) => hay.includes(word))) found.push([number, position]);
      });
    });
    return found;
  }
}

function letterOf(number) {
  const last = String.fromCharCode(65 + (number % 26));
  return number < 26 ? last : letterOf(Math.floor(number / 26) - 1) + last;
}
