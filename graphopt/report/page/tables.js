// Tables whose rows stand for several places: a click opens them. Columns sort where they can.

class GroupedTable {
  // columns: {title, cell(row), number, sort(row), wide}; rowsOf(row) gives the rows it stands for.
  constructor(columns, { rowsOf = null, onChoose = null, caption, narrow = false }) {
    Object.assign(this, { columns, rowsOf, onChoose, opened: new Set(), order: null });
    this.body = h("tbody");
    this.head = h("tr");
    this.element = h("table", { class: narrow ? "grid narrow" : "grid" }, h("caption", {}, caption), h("thead", {}, this.head), this.body);
  }

  show(rows) {
    this.rows = rows;
    this.draw();
  }

  draw() {
    this.head.replaceChildren(...this.columns.map((column) => this.heading(column)));
    let rows = this.rows;
    if (this.order) {
      const { column, down } = this.order;
      const compare = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
      rows = [...rows].sort((a, b) => compare(column.sort(a), column.sort(b)) * (down ? -1 : 1));
    }
    const empty = h("tr", {}, h("td", { class: "quiet", colspan: this.columns.length }, "Nothing here."));
    this.body.replaceChildren(...(rows.length ? rows.flatMap((row) => this.lines(row)) : [empty]));
  }

  heading(column) {
    const active = this.order?.column === column;
    const sorted = active ? (this.order.down ? "descending" : "ascending") : "none";
    const sort = () => {
      this.order = { column, down: active ? !this.order.down : Boolean(column.number) };
      this.draw();
    };
    const content = column.sort
      ? h("button", { type: "button", class: "sort", onclick: sort }, column.title, h("i", {}, active ? (this.order.down ? " ▾" : " ▴") : ""))
      : column.title;
    return h("th", { scope: "col", class: column.number ? "number" : "", "aria-sort": column.sort ? sorted : null }, content);
  }

  lines(row) {
    const parts = this.rowsOf?.(row) ?? [], open = this.opened.has(row);
    const toggle = () => {
      if (open) this.opened.delete(row);
      else this.opened.add(row);
      this.draw();
    };
    const cells = this.columns.map((column, number) => {
      const content = [column.cell(row)];
      if (number === 0 && parts.length > 1)
        content.unshift(h("button", { type: "button", class: "twist", "aria-expanded": String(open),
          "aria-label": open ? "Close" : "Open", onclick: (event) => { event.stopPropagation(); toggle(); } }, open ? "▾" : "▸"));
      else if (number === 0 && this.rowsOf) content.unshift(h("span", { class: "twist" }));
      return h("td", { class: this.classOf(column) }, content);
    });
    const choose = this.onChoose ? () => this.onChoose(row) : parts.length > 1 ? toggle : null;
    const line = h("tr", { class: choose ? "active" : "", onclick: choose ?? (() => {}) }, cells);
    return open ? [line, ...parts.map((part) => this.part(row, part))] : [line];
  }

  part(row, part) {
    const cells = this.columns.map((column, number) => h("td", { class: this.classOf(column) },
      number === 0 ? h("span", { class: "twist" }) : "", column.part ? column.part(part, row) : ""));
    return h("tr", { class: "part" }, cells);
  }

  classOf(column) {
    return [column.number && "number", column.wide && "wide", column.mono && "mono", column.path && "path", column.code && "code"].filter(Boolean).join(" ");
  }
}
