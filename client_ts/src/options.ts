/**
 * Holds options to the names that there are: TypeScript does so for literals, plain JavaScript for none.
 *
 * @param path - said before each name.
 * @throws TypeError: one is not in `known`.
 */
export function checkOptions(options: object, known: object, path = ""): void {
  for (const name of Object.keys(options)) {
    if (!Object.hasOwn(known, name)) {
      const names = Object.keys(known).map((key) => path + key);
      throw new TypeError(`there is no option ${path}${name}; there are: ${names.join(", ")}`);
    }
  }
}
