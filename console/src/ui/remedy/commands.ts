/** Returns the commands of the terminal that an error names, in backticks, as its fix. */
export function commandsIn(message: string): string[] {
  const found = [...message.matchAll(/`((?:deepwell|pip) [^`\n]+)`/g)].map((match) => match[1] as string);
  return [...new Set(found)];
}
