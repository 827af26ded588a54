// Sizes that depend on the batch: expressions over named symbols with + - * // % min max, exactly
// those that graphopt.ir.shape prints. Whole numbers of any length; // and % round down.

const SIZE_TOKEN = /[ \t]*(?:(\d+)|([A-Za-z_]\w*)|(\/\/|[-+*%(),]))/y;

function floorDivide(a, b) {
  if (b === 0n) throw new RangeError("a size divides by zero");
  const quotient = a / b;
  return a % b !== 0n && a < 0n !== b < 0n ? quotient - 1n : quotient;
}

// A function from {symbol: BigInt} to BigInt.
function compileSize(text) {
  let at = 0;
  const fail = (what) => {
    throw new SyntaxError(`${what} at column ${at + 1} of the size ${text}`);
  };
  const look = () => {
    SIZE_TOKEN.lastIndex = at;
    return SIZE_TOKEN.exec(text);
  };
  const take = () => {
    const found = look() ?? fail("nothing to read");
    at += found[0].length;
    return found;
  };
  const expect = (mark) => take()[3] === mark || fail(`no ${mark}`);
  const operators = {
    "+": (l, r) => (env) => l(env) + r(env),
    "-": (l, r) => (env) => l(env) - r(env),
    "*": (l, r) => (env) => l(env) * r(env),
    "//": (l, r) => (env) => floorDivide(l(env), r(env)),
    "%": (l, r) => (env) => {
      const left = l(env), right = r(env);
      return left - floorDivide(left, right) * right;
    },
  };
  const chain = (marks, operand) => {
    let left = operand();
    for (let mark; marks.includes((mark = look()?.[3])); ) {
      take();
      left = operators[mark](left, operand());
    }
    return left;
  };
  const total = () => chain(["+", "-"], term);
  const term = () => chain(["*", "//", "%"], factor);
  const extreme = (isMin) => {
    expect("(");
    const args = [total()];
    while (look()?.[3] === ",") {
      take();
      args.push(total());
    }
    expect(")");
    return (env) => args.map((arg) => arg(env)).reduce((a, b) => (a < b === isMin ? a : b));
  };
  function factor() {
    const [, digits, name, mark] = take();
    if (digits) {
      const value = BigInt(digits);
      return () => value;
    }
    if (name === "min" || name === "max") return extreme(name === "min");
    if (name) {
      return (env) => {
        if (!Object.hasOwn(env, name)) throw new ReferenceError(`size ${name} has no value`);
        return env[name];
      };
    }
    if (mark === "-") {
      const operand = factor();
      return (env) => -operand(env);
    }
    if (mark !== "(") fail("no size");
    const inner = total();
    expect(")");
    return inner;
  }
  const compiled = total();
  if (text.slice(at).trim()) fail("something left over");
  return compiled;
}

function evaluateSize(text, env) {
  const whole = Object.fromEntries(Object.entries(env).map(([name, n]) => [name, BigInt(n)]));
  return compileSize(text)(whole);
}

// All sizes of the document, evaluated once for each choice of the batch.
class Sizes {
  constructor(texts) {
    this.texts = texts;
    this.compiled = [];
    this.values = [];
    this.env = {};
  }

  set(env) {
    this.env = Object.fromEntries(Object.entries(env).map(([name, n]) => [name, BigInt(n)]));
    this.values = [];
  }

  at(number) {
    if (this.values[number] === undefined) {
      this.compiled[number] ??= compileSize(this.texts[number]);
      this.values[number] = Number(this.compiled[number](this.env));
    }
    return this.values[number];
  }
}
