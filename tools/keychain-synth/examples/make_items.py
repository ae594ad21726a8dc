"""Writes hotpot.json, musique.jsonl and 2wiki.json: multi-hop questions in the three forms their publishers use.

    python tools/keychain-synth/examples/make_items.py            # beside this file; or: make_items.py FOLDER

Everything is written by hand from common knowledge: PARAGRAPHS are the documents, one sentence a line, and the three
tables below ask about them. A step of a question is (title, sentence, what is asked, answer): the sentence, counted
from 0, holds the answer, and "#1" stands for the first step's answer. Distractors are other paragraphs of the same
topics that do not hold the answer. All that looks random is drawn from the question: the files come out the same each
time.

Long because the texts and the questions stand in it; the code is its last hundred lines.
"""

from __future__ import annotations

import hashlib
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARAGRAPHS = """\
== books
Frankenstein
- Frankenstein; or, The Modern Prometheus is a novel that first appeared in London in 1818.
- It was written by Mary Shelley, who began it during a rainy summer beside Lake Geneva.
- In it a young student of science brings a being to life and then turns away from it.
Dracula
- Dracula is a Gothic novel of 1897 that is told through letters, diaries and newspaper cuttings.
- Its author was Bram Stoker.
- The story opens with a solicitor's journey to a castle in Transylvania.
Don Quixote
- Don Quixote is a Spanish novel that came out in two parts, in 1605 and 1615.
- It was written by Miguel de Cervantes.
- Its hero has read so many tales of chivalry that he rides out as a knight, with Sancho Panza as his squire.
War and Peace
- War and Peace is a long novel set in the years of the Napoleonic Wars.
- Its author, Leo Tolstoy, published it in full in 1869.
- It follows several noble families through peace and through the French invasion of Russia.
Crime and Punishment
- Crime and Punishment is a novel of 1866 about a former student who kills a pawnbroker.
- It was written by Fyodor Dostoevsky and printed in a monthly magazine first.
- The student's name is Raskolnikov.
The Metamorphosis
- The Metamorphosis is a story of 1915 in which a travelling salesman wakes up as a monstrous insect.
- It was written in German by Franz Kafka.
- The salesman, Gregor Samsa, lives with his parents and his sister Grete.
One Hundred Years of Solitude
- One Hundred Years of Solitude is a novel about seven generations of the Buendía family.
- It was written in Spanish by Gabriel García Márquez and published in 1967.
- Most of it takes place in the invented town of Macondo.
Moby-Dick
- Moby-Dick is a novel of 1851 about the hunt for a white whale.
- Herman Melville wrote it and dedicated it to his friend Nathaniel Hawthorne.
- The story is told by a sailor who asks to be called Ishmael.
Treasure Island
- Treasure Island is an adventure novel about pirates and buried gold.
- Robert Louis Stevenson wrote it, and it came out as a book in 1883.
- Its one-legged sea cook is called Long John Silver.
Things Fall Apart
- Things Fall Apart is the first novel of the Nigerian writer Chinua Achebe and was published in 1958.
- Its title is taken from the poem The Second Coming.
- It tells of Okonkwo, a respected man in an Igbo village, and of the coming of missionaries.
The Second Coming (poem)
- The Second Coming is a poem written in 1919, soon after the First World War.
- It is one of the best known works of W. B. Yeats.
- It speaks of a falcon that no longer hears the falconer and of a beast that moves towards Bethlehem.
Pippi Longstocking
- Pippi Longstocking is a Swedish children's book of 1945.
- Its author was Astrid Lindgren, who first told the stories to her daughter.
- Pippi is nine years old, lives with a horse and a monkey, and is strong enough to lift the horse.
The Little Mermaid
- The Little Mermaid is a fairy tale about a girl of the sea who gives up her voice to live on land.
- It was written by Hans Christian Andersen and first published in 1837.
- A bronze statue of the mermaid has sat by a harbour since 1913.
Alice's Adventures in Wonderland
- Alice's Adventures in Wonderland is a children's novel of 1865 with pictures by John Tenniel.
- It was written by Lewis Carroll.
- A girl follows a white rabbit down its hole and meets the Mad Hatter and the Queen of Hearts.
Jane Eyre
- Jane Eyre is a novel of 1847 about an orphan who becomes a governess at Thornfield Hall.
- It was written by Charlotte Brontë, who first used the name Currer Bell.
- The owner of the house, Mr Rochester, keeps a secret on its upper floor.
Wuthering Heights
- Wuthering Heights is a novel of 1847 set in a farmhouse on the moors.
- It is the only novel of Emily Brontë, who published it as Ellis Bell.
- Its main figures are Catherine Earnshaw and the foundling Heathcliff.
== writers
Mary Shelley
- Mary Shelley was an English novelist, born in London on 30 August 1797.
- Her mother was the philosopher Mary Wollstonecraft.
- She married the poet Percy Bysshe Shelley and edited his works after he had drowned.
Mary Wollstonecraft
- Mary Wollstonecraft was an English writer and thinker, born in 1759.
- In 1792 she published a book that claimed for women the same education as for men.
- She died eleven days after the birth of her second daughter.
Percy Florence Shelley
- Percy Florence Shelley was an English baronet, born in 1819 in the Italian city that gave him his second name.
- He was the only child of Mary Shelley who lived to be an adult.
- He was fond of sailing and of the theatre.
Bram Stoker
- Bram Stoker was an Irish writer, born in Dublin on 8 November 1847.
- For many years he was business manager of the Lyceum Theatre and of the actor Henry Irving.
- He died in London in 1912.
Miguel de Cervantes
- Miguel de Cervantes was a Spanish writer, born in Alcalá de Henares in 1547.
- A wound that he received in the Battle of Lepanto took away the use of his left hand.
- Later he spent five years as a captive in Algiers.
Leo Tolstoy
- Leo Tolstoy was a Russian writer, born in 1828 on the estate of Yasnaya Polyana near Tula.
- As a young officer he took part in the Crimean War.
- He died in 1910 at the small railway station of Astapovo.
Fyodor Dostoevsky
- Fyodor Dostoevsky was a Russian writer, born in Moscow in 1821.
- As a young man he was sentenced to four years in a prison camp in Siberia.
- He died in Saint Petersburg in 1881.
Franz Kafka
- Franz Kafka was a writer, born in Prague in 1883.
- He worked for an insurance institute by day and wrote by night.
- After his death in 1924 his friend Max Brod published the novels he had left unfinished.
Gabriel García Márquez
- Gabriel García Márquez was a Colombian writer, born in Aracataca in 1927.
- He was brought up by his grandparents and later worked as a journalist.
- He received the Nobel Prize in Literature in 1982.
Herman Melville
- Herman Melville was an American writer, born in New York City in 1819.
- As a young man he went to sea on a whaling ship and left it in the Marquesas Islands.
- His last story, Billy Budd, was published long after his death.
Robert Louis Stevenson
- Robert Louis Stevenson was a Scottish writer, born in Edinburgh in 1850.
- He came from a family of engineers who built lighthouses.
- He died in 1894 on the island of Upolu, where he had built a house.
W. B. Yeats
- W. B. Yeats was an Irish poet, born in 1865.
- He helped to found the Abbey Theatre, which opened in 1904.
- He received the Nobel Prize in Literature in 1923.
Astrid Lindgren
- Astrid Lindgren was a Swedish writer of children's books, born in 1907.
- She grew up on a farm on the edge of the town of Vimmerby.
- She also invented Emil, Ronja and the Brothers Lionheart.
Hans Christian Andersen
- Hans Christian Andersen was a Danish writer, born in Odense in 1805.
- His father was a shoemaker and his mother washed clothes.
- Among his tales are The Ugly Duckling and The Snow Queen.
Lewis Carroll
- Lewis Carroll was the pen name of Charles Lutwidge Dodgson, who was born in 1832 at Daresbury in Cheshire.
- He taught mathematics at Christ Church in Oxford.
- He was also a keen photographer.
Charlotte Brontë
- Charlotte Brontë was an English novelist, born in 1816 in the Yorkshire village of Thornton.
- She taught for some time at a school in Brussels.
- Her other novels are Shirley, Villette and The Professor.
Emily Brontë
- Emily Brontë was an English novelist and poet, born in 1818 in the Yorkshire village of Thornton.
- With her sister Anne she invented the island of Gondal and wrote poems about it.
- She died in 1848, a year after her novel had come out.
Lord Byron
- Lord Byron was an English poet, born in London in 1788.
- Childe Harold's Pilgrimage made him famous at the age of twenty-four.
- In 1824 he died of a fever in Missolonghi, where he had gone to help the Greeks in their war of independence.
Henrik Ibsen
- Henrik Ibsen was a Norwegian playwright, born in Skien in 1828.
- He lived in Italy and Germany for twenty-seven years.
- A Doll's House and Hedda Gabler are among his best known plays.
Lady Anne Blunt
- Lady Anne Blunt was an English traveller and breeder of Arabian horses, born in 1837.
- Her mother was Ada Lovelace.
- She rode through the Nejd with her husband and wrote a book about the journey.
== rivers and lakes
Vltava
- The Vltava is the longest river within the Czech Republic.
- It comes from the Bohemian Forest, flows north and joins the Elbe at Mělník.
- Several dams have turned its upper valley into a chain of lakes.
Elbe
- The Elbe rises in the Giant Mountains and runs through Dresden, Magdeburg and Hamburg.
- It flows into the North Sea near Cuxhaven.
- Canals join it to other rivers on both sides.
Rhine
- The Rhine rises in the Swiss Alps and passes through Lake Constance.
- It flows into the North Sea on the coast of the Netherlands.
- Between Bingen and Koblenz its narrow valley is lined with castles.
Danube
- The Danube rises in the Black Forest and flows east through ten countries.
- It ends in a wide delta on the Black Sea.
- More national capitals lie on it than on any other river.
Inn
- The Inn rises in the Swiss valley of the Engadine and flows through the Tyrol.
- It joins the Danube at Passau.
- Innsbruck has its name from a bridge over it.
Salzach
- The Salzach is a river of the eastern Alps whose name speaks of the salt that was once shipped on it.
- It flows into the Inn.
- For part of its way it is the border between Austria and Germany.
Vistula
- The Vistula is the longest river of Poland and rises in the Beskid mountains.
- It flows into the Baltic Sea.
- Kraków lies on its upper course.
Ob
- The Ob is one of the great rivers of western Siberia.
- Its long gulf opens into the Kara Sea.
- It is frozen for about half the year.
Irtysh
- The Irtysh rises in the Altai mountains and crosses Kazakhstan.
- It flows into the Ob near Khanty-Mansiysk.
- Omsk is the largest city on its banks.
Yenisei
- The Yenisei flows north through the middle of Siberia.
- It empties into the Kara Sea.
- Krasnoyarsk is the largest city on its banks.
Angara
- The Angara is a Siberian river that is known for its large power stations, among them the one at Bratsk.
- It joins the Yenisei at Strelka.
- Irkutsk lies on its upper course.
Lake Baikal
- Lake Baikal is the deepest lake on Earth.
- Hundreds of streams feed it, but the Angara alone flows out of it.
- The Baikal seal lives nowhere else.
Seine
- The Seine rises in Burgundy and flows through Paris and Rouen.
- It flows into the English Channel at Le Havre.
- Its name in Latin was Sequana.
Tagus
- The Tagus is the longest river of the Iberian Peninsula.
- It rises in the mountains of Albarracín and flows into the Atlantic Ocean.
- In Spain it runs round three sides of the old town of Toledo.
== cities
Prague
- Prague is the capital of the Czech Republic.
- The Vltava flows through it, under the statues of Charles Bridge.
- An astronomical clock has hung on its old town hall since 1410.
Warsaw
- Warsaw is the capital of Poland.
- It lies on the Vistula, about half-way between the mountains and the coast.
- Its old town was destroyed in the Second World War and built up again from paintings and plans.
Toruń
- Toruń is a Polish city that was founded by the Teutonic Knights.
- It lies on the Vistula.
- It has baked gingerbread since the Middle Ages.
Salzburg
- Salzburg is an Austrian city below a large fortress.
- The Salzach flows through it.
- For centuries it was ruled by archbishops.
Odense
- Odense is one of the largest cities of Denmark.
- It lies on the island of Funen.
- It is named after the god Odin.
Horsens
- Horsens is a town at the head of a fjord in Denmark.
- It lies on the east coast of Jutland.
- Its former prison is now a museum and a concert ground.
Glasgow
- Glasgow is the largest city of Scotland.
- It stands on the River Clyde, where great numbers of ships were built.
- Its university was founded in 1451.
Leiden
- Leiden is a Dutch city of many canals.
- Its university was founded in 1575 and is the oldest in the Netherlands.
- The Pilgrims lived there before they sailed to America.
Chamonix
- Chamonix is a town in the French Alps, at the foot of Mont Blanc.
- The first Winter Olympics were held there in 1924.
- A cable car climbs from it to the Aiguille du Midi.
Tobolsk
- Tobolsk is a town in Siberia with a white stone kremlin on a hill.
- It stands on the right bank of the Irtysh.
- It was founded in 1587.
Aracataca
- Aracataca is a small town in northern Colombia, not far from the Caribbean coast.
- It belongs to the department of Magdalena.
- Bananas were once its main crop.
Missolonghi
- Missolonghi is a town in western Greece that stood a famous siege in 1825 and 1826.
- It lies by a lagoon on the north side of the Gulf of Patras.
- Salt and fish roe come from the lagoon.
Caracas
- Caracas is the capital of Venezuela.
- A mountain range parts it from the Caribbean Sea.
- It was founded by Diego de Losada in 1567.
Lisbon
- Lisbon is the capital of Portugal.
- It was rebuilt on a grid of straight streets after an earthquake and a great wave in 1755.
- Yellow trams climb its hills.
Wellington
- Wellington is the capital of New Zealand.
- It lies at the southern end of the North Island, by Cook Strait.
- It is known for its strong winds.
Brasília
- Brasília became the capital of Brazil in 1960.
- Its city plan, which looks like a bird or an aeroplane from above, was drawn up by Lúcio Costa.
- Oscar Niemeyer designed its cathedral and its palaces.
Canberra
- Canberra is the capital of Australia.
- Walter Burley Griffin and Marion Mahony Griffin won the competition for its plan in 1912.
- An artificial lake lies in the middle of it.
== builders
Sydney Opera House
- The Sydney Opera House stands on a point in the harbour and was opened in 1973.
- Its roof of white shells was designed by Jørn Utzon.
- More than a million tiles cover the shells.
Jørn Utzon
- Jørn Utzon was a Danish architect, born in Copenhagen in 1918.
- He also designed a church at Bagsværd.
- He received the Pritzker Prize in 2003.
Lúcio Costa
- Lúcio Costa was a Brazilian architect and town planner, born in Toulon in France in 1902.
- His father was an officer of the navy, so that the boy grew up in several countries.
- He worked with Le Corbusier on a ministry building in Rio de Janeiro.
Oscar Niemeyer
- Oscar Niemeyer was an architect, born in Rio de Janeiro in Brazil in 1907.
- He loved curves and built them in concrete.
- He went on working past the age of one hundred.
Walter Burley Griffin
- Walter Burley Griffin was an American architect, born in 1876 at Maywood in Illinois.
- He worked for Frank Lloyd Wright in his early years.
- He died in India in 1937.
Statue of Liberty
- The Statue of Liberty has stood at the entrance of New York Harbor since 1886.
- Its sculptor was Frédéric Auguste Bartholdi.
- Gustave Eiffel designed the iron frame that carries the copper skin.
Frédéric Auguste Bartholdi
- Frédéric Auguste Bartholdi was a French sculptor, born in Colmar in 1834.
- He also made the great stone lion of Belfort.
- He died in Paris in 1904.
Gustave Eiffel
- Gustave Eiffel was a French engineer, born in Dijon in 1832.
- His firm built the Garabit viaduct and the tower that bears his name.
- In later life he studied the wind and the flow of air.
== elements
Polonium
- Polonium is a radioactive element with the atomic number 84.
- Marie and Pierre Curie discovered it in 1898.
- It is named after Poland, which was then divided between three empires.
Radium
- Radium is a radioactive metal with the atomic number 88.
- Marie and Pierre Curie discovered it in 1898 in uranium ore.
- It was once used to make the hands of clocks glow.
Helium
- Helium is the second lightest element and was first seen as a yellow line in the spectrum of the Sun.
- William Ramsay was the first to isolate it on Earth, in 1895.
- It stays liquid at normal pressure down to the lowest temperatures.
Gallium
- Gallium is a metal that melts in a warm hand.
- Dmitri Mendeleev foretold it under the name of eka-aluminium, four years before it was found in 1875.
- It is used in semiconductors together with arsenic or nitrogen.
Copernicium
- Copernicium is an artificial element with the atomic number 112, first made in Darmstadt in 1996.
- It is named after Nicolaus Copernicus.
- Its symbol is Cn.
Oganesson
- Oganesson is an artificial element with the atomic number 118, the last one of the seventh period.
- It is named after Yuri Oganessian.
- Only a few atoms of it have ever been made.
Phosphorus
- Phosphorus is an element that glows in the dark in its white form.
- Hennig Brand of Hamburg found it in 1669 when he boiled down urine.
- It is needed by every living cell.
Penicillin
- Penicillin was the first antibiotic to be widely used.
- Alexander Fleming noticed in 1928 that a mould had killed the bacteria in one of his dishes.
- In the Second World War it was made in great amounts.
Dynamite
- Dynamite is an explosive that is much safer to handle than pure nitroglycerine.
- It was invented by Alfred Nobel, who patented it in 1867.
- At first it was made with kieselguhr, a soft and porous rock.
== scientists
Marie Curie
- Marie Curie was a physicist and chemist, born in Warsaw in 1867.
- She moved to Paris to study at the Sorbonne.
- She received Nobel Prizes in two sciences, physics and chemistry.
Irène Joliot-Curie
- Irène Joliot-Curie was a French chemist, born in Paris in 1897.
- Her father was Pierre Curie.
- In the First World War she helped to run X-ray units near the front.
Frédéric Joliot-Curie
- Frédéric Joliot-Curie was a French physicist, born in Paris in 1900.
- He married Irène Joliot-Curie in 1926.
- The two shared the Nobel Prize in Chemistry in 1935 for making new radioactive elements.
William Ramsay
- William Ramsay was a chemist, born in Glasgow in 1852.
- He also found neon, krypton and xenon, together with Morris Travers.
- He received the Nobel Prize in Chemistry in 1904.
Dmitri Mendeleev
- Dmitri Mendeleev was a Russian chemist, born in Siberia in 1834.
- He went to school in the town of Tobolsk.
- He published his periodic table of the elements in 1869.
Yuri Oganessian
- Yuri Oganessian is a nuclear physicist, born in Rostov-on-Don in 1933.
- At Dubna he led the work that made several of the heaviest elements.
- He is of Armenian descent.
Alexander Fleming
- Alexander Fleming was a Scottish doctor, born on a farm in Ayrshire in 1881.
- He shared the Nobel Prize in Medicine of 1945 with Howard Florey and Ernst Chain.
- He also discovered lysozyme.
Alfred Nobel
- Alfred Nobel was a Swedish chemist and manufacturer, born in Stockholm in 1833.
- He died in Sanremo in 1896.
- In his will he left most of his fortune for the prizes that bear his name.
Leonhard Euler
- Leonhard Euler was a Swiss mathematician, born in Basel in 1707.
- He died in Saint Petersburg in 1783.
- He went on working after he had become almost blind.
Analytical Engine
- The Analytical Engine was a calculating machine designed by Charles Babbage from the 1830s on, and never finished.
- The longest notes on it were published in 1843 by Ada Lovelace.
- It was to be controlled by punched cards, as looms were.
Ada Lovelace
- Ada Lovelace was an English mathematician, born in London in 1815.
- Her father was Lord Byron.
- Her mother had her taught mathematics from an early age.
Rosetta Stone
- The Rosetta Stone carries one decree in Greek and in two Egyptian scripts, and was found in 1799.
- With its help Jean-François Champollion worked out how hieroglyphs are read.
- It has been shown in the British Museum since 1802.
Jean-François Champollion
- Jean-François Champollion was a French scholar of languages, born in Figeac in 1790.
- He learned Coptic as a boy.
- In 1828 and 1829 he travelled through Egypt and copied inscriptions.
== sky
Uranus
- Uranus is the seventh planet from the Sun and lies almost on its side.
- William Herschel discovered it in 1781.
- Its moons are named after figures of Shakespeare and Pope.
Neptune
- Neptune is the eighth planet from the Sun.
- Johann Galle saw it in Berlin in 1846, close to the place that Urbain Le Verrier had calculated.
- It takes about 165 years to go round the Sun.
Triton (moon)
- Triton is the largest moon of Neptune and goes round it against the planet's spin.
- William Lassell discovered it in 1846, seventeen days after the planet itself had been found.
- Geysers of nitrogen rise from its icy ground.
Titan (moon)
- Titan is the largest moon of Saturn and has a thick atmosphere of nitrogen.
- Christiaan Huygens discovered it in 1655.
- A probe landed on it in January 2005.
Ganymede (moon)
- Ganymede is the largest moon of Jupiter and of the whole Solar System.
- Galileo Galilei discovered it in January 1610, along with three other moons.
- It has a magnetic field of its own.
Phobos (moon)
- Phobos is the larger and inner one of the two moons of Mars.
- Asaph Hall discovered it in Washington in 1877.
- It goes round its planet about three times a day.
Pluto
- Pluto is a dwarf planet whose largest moon is Charon.
- Clyde Tombaugh discovered it in 1930 at Lowell Observatory.
- A spacecraft flew past it for the first time in July 2015.
Ceres (dwarf planet)
- Ceres is the largest body between the orbits of Mars and Jupiter.
- Giuseppe Piazzi discovered it on the first day of 1801.
- It was taken for a planet for about half a century.
Lowell Observatory
- Lowell Observatory stands on a hill above Flagstaff in Arizona.
- It was founded in 1894 by Percival Lowell.
- Vesto Slipher measured there how fast galaxies move.
== astronomers
Nicolaus Copernicus
- Nicolaus Copernicus was an astronomer, born in Toruń in 1473.
- He spent most of his life as a canon in Frombork.
- His book of 1543 set the Sun in the middle and let the Earth move round it.
Galileo Galilei
- Galileo Galilei was an Italian scientist, born in Pisa in 1564.
- He taught at the University of Padua for eighteen years.
- He spent his last years under house arrest at Arcetri.
Christiaan Huygens
- Christiaan Huygens was a Dutch scientist, born in The Hague in 1629.
- He built the first good pendulum clock.
- He held that light is a wave.
William Herschel
- William Herschel was an astronomer, born in Hanover in 1738, who first earned his living as a musician.
- His sister Caroline Herschel worked at the telescopes with him for many years.
- He was the first to find a new planet with a telescope.
Caroline Herschel
- Caroline Herschel was an astronomer, born in Hanover in 1750.
- She discovered several comets.
- In 1828 she received the gold medal of the Royal Astronomical Society.
John Herschel
- John Herschel was an English astronomer, born in Slough in 1792.
- His father was William Herschel.
- He surveyed the southern sky from the Cape of Good Hope.
William Lassell
- William Lassell was an English brewer and astronomer, born in Bolton in 1799.
- He paid for his telescopes with the money that beer had brought him.
- For some years he observed from Malta, where the air is clear.
Asaph Hall
- Asaph Hall was an American astronomer, born in Goshen in Connecticut in 1829.
- He was a carpenter before he studied.
- A crater on one of the moons of Mars bears the maiden name of his wife, Stickney.
Clyde Tombaugh
- Clyde Tombaugh was an American astronomer, born at Streator in Illinois in 1906.
- He built his first telescopes on his family's farm in Kansas.
- Some of his ashes travelled through the outer Solar System on a spacecraft.
Percival Lowell
- Percival Lowell was an American astronomer, born in Boston in 1855.
- Before that career he had travelled in Korea and Japan and written books about them.
- He believed that he saw canals on Mars.
Giuseppe Piazzi
- Giuseppe Piazzi was an Italian priest and astronomer, born at Ponte in Valtellina in 1746.
- He directed the observatory of Palermo.
- He also made a catalogue of several thousand stars.
== peaks
Matterhorn
- The Matterhorn is a steep pyramid of rock on the border of Switzerland and Italy.
- It was first climbed in 1865 by a party that was led by Edward Whymper.
- Four of the seven climbers fell to their deaths on the way down.
Edward Whymper
- Edward Whymper was an English wood engraver and mountaineer, born in London in 1840.
- He died in Chamonix in 1911.
- He was also the first to climb Chimborazo in the Andes.
Mont Blanc
- Mont Blanc is the highest mountain of the Alps.
- It was first climbed in 1786, by Jacques Balmat and Michel-Gabriel Paccard.
- A road tunnel under it joins France and Italy.
Kilimanjaro
- Kilimanjaro is a volcano in Tanzania and the highest mountain of Africa.
- Hans Meyer and Ludwig Purtscheller reached its top in 1889.
- Its three cones are called Kibo, Mawenzi and Shira.
Aconcagua
- Aconcagua is the highest mountain of the Americas.
- It stands in the Argentine province of Mendoza.
- Matthias Zurbriggen was alone when he made the first recorded climb in 1897.
== explorers
Battle of Lepanto
- The Battle of Lepanto was fought between galleys on 7 October 1571.
- The fleet of the Holy League was commanded by Don John of Austria and won.
- The Ottoman Empire lost most of its ships that day.
Tasmania
- Tasmania is an island state of Australia, and Hobart is its capital.
- It was renamed in 1856 after Abel Tasman, who had come upon it in 1642.
- Before that it was called Van Diemen's Land.
Abel Tasman
- Abel Tasman was a Dutch seafarer, born in the village of Lutjegast about 1603.
- He served the Dutch East India Company.
- He was the first European known to have reached New Zealand.
Bering Strait
- The Bering Strait parts Asia from North America.
- It is named after Vitus Bering, who sailed through it in 1728.
- Two small islands, the Diomedes, lie in the middle.
Vitus Bering
- Vitus Bering was an officer of the Russian navy, born in Horsens in 1681.
- He led two great expeditions to Kamchatka.
- He died in 1741 on an island that now bears his name.
Cook Strait
- Cook Strait parts the North Island of New Zealand from the South Island.
- It is named after James Cook, who sailed through it in 1770.
- Ferries cross it in about three and a half hours.
James Cook
- James Cook was an English navigator, born at Marton in Yorkshire in 1728.
- He made three great voyages into the Pacific Ocean.
- He was killed in 1779 at Kealakekua Bay.
Strait of Magellan
- The Strait of Magellan leads from the Atlantic to the Pacific near the southern end of South America.
- It is named after Ferdinand Magellan, whose ships passed through it in 1520.
- Punta Arenas is the largest city on its shores.
Ferdinand Magellan
- Ferdinand Magellan was a Portuguese seafarer in the service of Spain.
- He was killed in 1521 on the island of Mactan.
- Juan Sebastián Elcano brought the last of his ships home.
Barents Sea
- The Barents Sea is a shallow part of the Arctic Ocean north of Norway and Russia.
- It is named after Willem Barentsz.
- Its south-western part is free of ice all year because of warm water from the Atlantic.
Upolu
- Upolu is one of the two main islands of Samoa.
- Apia, the capital of the country, lies on its north coast.
- It was built up by volcanoes.
Bolivia
- Bolivia is a country of South America without a coast.
- It was named after Simón Bolívar in 1825.
- Its salt flat at Uyuni is the largest on Earth.
Simón Bolívar
- Simón Bolívar was a leader of South America's wars of independence, born in Caracas in 1783.
- He was president of Gran Colombia for eleven years.
- He died near Santa Marta in 1830.
== arts
The Night Watch
- The Night Watch is a very large painting of a company of citizen guards, finished in 1642.
- It was painted by Rembrandt.
- It hangs in the Rijksmuseum in Amsterdam.
Rembrandt
- Rembrandt was a Dutch painter and etcher, born in Leiden in 1606.
- He moved to Amsterdam as a young man and ran a large workshop there.
- He painted and drew himself again and again throughout his life.
Girl with a Pearl Earring
- Girl with a Pearl Earring is a painting of a girl in a blue and yellow headscarf, made about 1665.
- It was painted by Johannes Vermeer.
- It hangs in the Mauritshuis.
Johannes Vermeer
- Johannes Vermeer was a Dutch painter, born in Delft in 1632.
- He painted slowly and left fewer than forty pictures.
- He was also a dealer in art.
The Scream
- The Scream is a picture of 1893 with a figure that holds its hands to its face under a red sky.
- It was painted by Edvard Munch.
- One version of it was stolen in 1994 and found again within three months.
Edvard Munch
- Edvard Munch was a painter, born at Løten in Norway in 1863.
- The early deaths of his mother and of a sister left traces in his pictures.
- He decorated the hall of a university with a great sun.
The Starry Night
- The Starry Night is a painting of June 1889 with a village under a whirling sky.
- It was painted by Vincent van Gogh.
- It has belonged to the Museum of Modern Art in New York since 1941.
Vincent van Gogh
- Vincent van Gogh was a Dutch painter, born in Zundert in 1853.
- He wrote hundreds of letters to his brother Theo.
- He died at Auvers-sur-Oise in 1890.
The Magic Flute
- The Magic Flute is an opera that was first performed in Vienna in 1791.
- Its music is by Wolfgang Amadeus Mozart.
- Emanuel Schikaneder wrote the words and sang the part of the bird-catcher.
Wolfgang Amadeus Mozart
- Wolfgang Amadeus Mozart was a composer, born in Salzburg in 1756.
- As a child he travelled through Europe and played before kings and queens.
- His Requiem was left unfinished.
Fidelio
- Fidelio is the only opera of Ludwig van Beethoven.
- It was first performed in 1805 and revised twice.
- In it a wife disguises herself as a young man to save her husband from prison.
Ludwig van Beethoven
- Ludwig van Beethoven was a composer, born in Bonn in 1770.
- He went on composing after he had lost his hearing.
- His ninth symphony ends with a choir.
Peer Gynt
- Peer Gynt is a play in verse by Henrik Ibsen that was published in 1867.
- The music for its first performance in 1876 is by Edvard Grieg.
- In the Hall of the Mountain King is one of the pieces.
Edvard Grieg
- Edvard Grieg was a pianist and composer, born in Bergen in Norway in 1843.
- His piano concerto is in A minor.
- He studied in Leipzig.
Finlandia
- Finlandia is a tone poem of 1899 whose quiet middle part has become a hymn.
- Its composer was Jean Sibelius.
- It was written for a pageant that was a hidden protest against censorship.
Jean Sibelius
- Jean Sibelius was a Finnish composer, born in Hämeenlinna in 1865.
- He wrote seven symphonies and a violin concerto.
- He published almost nothing in his last thirty years.
"""

Step = tuple[str, int, str, str]  # title, sentence, what is asked, answer
HOTPOT: list[tuple[str, str, str, list[Step]]] = [  # type, question, answer, steps
    ("bridge", "In which city was the author of the Gothic novel Dracula born?", "Dublin", [
        ("Dracula", 1, "author", "Bram Stoker"), ("Bram Stoker", 0, "place of birth", "Dublin")]),
    ("bridge", "On the edge of which Swedish town did the author of Pippi Longstocking grow up?", "Vimmerby", [
        ("Pippi Longstocking", 1, "author", "Astrid Lindgren"), ("Astrid Lindgren", 1, "home", "Vimmerby")]),
    ("bridge", "On which island did the author of Treasure Island die?", "Upolu", [
        ("Treasure Island", 1, "author", "Robert Louis Stevenson"),
        ("Robert Louis Stevenson", 2, "place of death", "Upolu")]),
    ("bridge", "In which city was the designer of the Sydney Opera House born?", "Copenhagen", [
        ("Sydney Opera House", 1, "architect", "Jørn Utzon"), ("Jørn Utzon", 0, "place of birth", "Copenhagen")]),
    ("bridge", "The man who drew up the city plan of Brasília was born in which European town?", "Toulon", [
        ("Brasília", 1, "planner", "Lúcio Costa"), ("Lúcio Costa", 0, "place of birth", "Toulon")]),
    ("bridge", "In which place in Illinois was the discoverer of Pluto born?", "Streator", [
        ("Pluto", 1, "discoverer", "Clyde Tombaugh"), ("Clyde Tombaugh", 0, "place of birth", "Streator")]),
    ("bridge", "In what year was the university of Rembrandt's birthplace founded?", "1575", [
        ("Rembrandt", 0, "place of birth", "Leiden"), ("Leiden", 1, "university founded", "1575")]),
    ("bridge", "The town in which Edward Whymper died lies at the foot of which mountain?", "Mont Blanc", [
        ("Edward Whymper", 1, "place of death", "Chamonix"), ("Chamonix", 0, "mountain", "Mont Blanc")]),
    ("bridge", "On which river lies the city where Marie Curie was born?", "Vistula", [
        ("Marie Curie", 0, "place of birth", "Warsaw"), ("Warsaw", 1, "river", "Vistula")]),
    ("bridge", "Who wrote the poem from which Chinua Achebe took the title of his first novel?", "W. B. Yeats", [
        ("Things Fall Apart", 1, "title taken from", "The Second Coming"),
        ("The Second Coming (poem)", 1, "author", "W. B. Yeats")]),
    ("bridge", "In which city was the composer of the music for the play Peer Gynt born?", "Bergen", [
        ("Peer Gynt", 1, "composer", "Edvard Grieg"), ("Edvard Grieg", 0, "place of birth", "Bergen")]),
    ("bridge", "In which village was the seafarer born whose name the state around Hobart bears?", "Lutjegast", [
        ("Tasmania", 1, "named after", "Abel Tasman"), ("Abel Tasman", 0, "place of birth", "Lutjegast")]),
    ("comparison", "Were Charlotte Brontë and Emily Brontë born in the same village?", "yes", [
        ("Charlotte Brontë", 0, "place of birth", "Thornton"), ("Emily Brontë", 0, "place of birth", "Thornton")]),
    ("comparison", "Do the Vistula and the Danube flow into the same sea?", "no", [
        ("Vistula", 1, "mouth", "Baltic Sea"), ("Danube", 1, "mouth", "Black Sea")]),
    ("comparison", "Were Leo Tolstoy and Fyodor Dostoevsky both born in Moscow?", "no", [
        ("Leo Tolstoy", 0, "place of birth", "Yasnaya Polyana"), ("Fyodor Dostoevsky", 0, "place of birth", "Moscow")]),
    ("comparison", "Into which sea do both the Ob, through its gulf, and the Yenisei send their water?", "Kara Sea", [
        ("Ob", 1, "mouth", "Kara Sea"), ("Yenisei", 1, "mouth", "Kara Sea")]),
    ("comparison", "Were polonium and radium discovered in the same year?", "yes", [
        ("Polonium", 1, "year of discovery", "1898"), ("Radium", 1, "year of discovery", "1898")]),
    ("comparison", "In which city did both Leonhard Euler and Fyodor Dostoevsky die?", "Saint Petersburg", [
        ("Leonhard Euler", 1, "place of death", "Saint Petersburg"),
        ("Fyodor Dostoevsky", 2, "place of death", "Saint Petersburg")]),
    ("comparison", "Do the moons Titan and Ganymede belong to the same planet?", "no", [
        ("Titan (moon)", 0, "planet", "Saturn"), ("Ganymede (moon)", 0, "planet", "Jupiter")]),
    ("comparison", "Which sea takes up the waters of both the Elbe and the Rhine?", "North Sea", [
        ("Elbe", 1, "mouth", "North Sea"), ("Rhine", 1, "mouth", "North Sea")]),
    ("comparison", "Do the Danube and the Rhine flow into the same sea?", "no", [
        ("Danube", 1, "mouth", "Black Sea"), ("Rhine", 1, "mouth", "North Sea")]),
    ("comparison", "Were Clyde Tombaugh and Jørn Utzon born in the same city?", "no", [
        ("Clyde Tombaugh", 0, "place of birth", "Streator"), ("Jørn Utzon", 0, "place of birth", "Copenhagen")]),
    ("comparison", "Were Edvard Grieg and Lúcio Costa born in the same town?", "no", [
        ("Edvard Grieg", 0, "place of birth", "Bergen"), ("Lúcio Costa", 0, "place of birth", "Toulon")]),
    ("comparison", "Were Marie Curie and Leo Tolstoy born in the same place?", "no", [
        ("Marie Curie", 0, "place of birth", "Warsaw"), ("Leo Tolstoy", 0, "place of birth", "Yasnaya Polyana")]),
]  # fmt: skip

MUSIQUE: list[tuple[str, str, list[str], list[Step]]] = [  # question, answer, aliases, steps
    ("In which city was the astronomer born after whom element 112 is named?", "Toruń", ["Torun", "Thorn"], [
        ("Copernicium", 1, "After whom is element 112 named?", "Nicolaus Copernicus"),
        ("Nicolaus Copernicus", 0, "In which city was #1 born?", "Toruń")]),
    ("Who was the mother of the author of Frankenstein?", "Mary Wollstonecraft", [], [
        ("Frankenstein", 1, "Who wrote Frankenstein?", "Mary Shelley"),
        ("Mary Shelley", 1, "Who was the mother of #1?", "Mary Wollstonecraft")]),
    ("In which battle was the author of Don Quixote wounded in the hand?", "Battle of Lepanto", ["Lepanto"], [
        ("Don Quixote", 1, "Who wrote Don Quixote?", "Miguel de Cervantes"),
        ("Miguel de Cervantes", 1, "In which battle was #1 wounded in the hand?", "Battle of Lepanto")]),
    ("Where was the discoverer of Ceres born?", "Ponte in Valtellina", ["Ponte"], [
        ("Ceres (dwarf planet)", 1, "Who discovered Ceres?", "Giuseppe Piazzi"),
        ("Giuseppe Piazzi", 0, "Where was #1 born?", "Ponte in Valtellina")]),
    ("In which city was the chemist born who first isolated helium on Earth?", "Glasgow", [], [
        ("Helium", 1, "Who first isolated helium on Earth?", "William Ramsay"),
        ("William Ramsay", 0, "In which city was #1 born?", "Glasgow")]),
    ("In which town was the painter of Girl with a Pearl Earring born?", "Delft", [], [
        ("Girl with a Pearl Earring", 1, "Who painted Girl with a Pearl Earring?", "Johannes Vermeer"),
        ("Johannes Vermeer", 0, "In which town was #1 born?", "Delft")]),
    ("Who founded the place where Clyde Tombaugh discovered Pluto?", "Percival Lowell", ["Lowell"], [
        ("Pluto", 1, "Where did Clyde Tombaugh discover Pluto?", "Lowell Observatory"),
        ("Lowell Observatory", 1, "Who founded #1?", "Percival Lowell")]),
    ("Where was the scholar born who read hieroglyphs with the help of the Rosetta Stone?", "Figeac", [], [
        ("Rosetta Stone", 1, "Who read hieroglyphs with the help of the Rosetta Stone?", "Jean-François Champollion"),
        ("Jean-François Champollion", 0, "Where was #1 born?", "Figeac")]),
    ("On which river lies the birthplace of the man whose name copernicium bears?", "Vistula", ["Wisła"], [
        ("Copernicium", 1, "After whom is copernicium named?", "Nicolaus Copernicus"),
        ("Nicolaus Copernicus", 0, "Where was #1 born?", "Toruń"),
        ("Toruń", 1, "On which river does #2 lie?", "Vistula")]),
    ("On which island lies the city in which the author of The Little Mermaid was born?", "Funen", ["Fyn"], [
        ("The Little Mermaid", 1, "Who wrote The Little Mermaid?", "Hans Christian Andersen"),
        ("Hans Christian Andersen", 0, "In which city was #1 born?", "Odense"),
        ("Odense", 1, "On which island does #2 lie?", "Funen")]),
    ("In what year were the Winter Olympics held where the leader of the Matterhorn's first ascent died?", "1924", [], [
        ("Matterhorn", 1, "Who led the first ascent of the Matterhorn?", "Edward Whymper"),
        ("Edward Whymper", 1, "Where did #1 die?", "Chamonix"),
        ("Chamonix", 1, "In what year were the Winter Olympics held in #2?", "1924")]),
    ("Who commanded the winning fleet in the battle that cost the author of Don Quixote the use of a hand?",
     "Don John of Austria", ["John of Austria"], [
        ("Don Quixote", 1, "Who wrote Don Quixote?", "Miguel de Cervantes"),
        ("Miguel de Cervantes", 1, "Which battle cost #1 the use of a hand?", "Battle of Lepanto"),
        ("Battle of Lepanto", 1, "Who commanded the winning fleet in the #2?", "Don John of Austria")]),
    ("In what year was the mother of the author of Frankenstein born?", "1759", [], [
        ("Frankenstein", 1, "Who wrote Frankenstein?", "Mary Shelley"),
        ("Mary Shelley", 1, "Who was the mother of #1?", "Mary Wollstonecraft"),
        ("Mary Wollstonecraft", 0, "In what year was #2 born?", "1759")]),
    ("On which river stands the birthplace of the first to isolate helium on Earth?", "River Clyde", ["Clyde"], [
        ("Helium", 1, "Who was the first to isolate helium on Earth?", "William Ramsay"),
        ("William Ramsay", 0, "Where was #1 born?", "Glasgow"),
        ("Glasgow", 1, "On which river does #2 stand?", "River Clyde")]),
    ("To which department belongs the birthplace of the author of One Hundred Years of Solitude?", "Magdalena",
     ["Magdalena Department"], [
        ("One Hundred Years of Solitude", 1, "Who wrote One Hundred Years of Solitude?", "Gabriel García Márquez"),
        ("Gabriel García Márquez", 0, "Where was #1 born?", "Aracataca"),
        ("Aracataca", 1, "To which department does #2 belong?", "Magdalena")]),
    ("Into which sea flows the river that is joined by the only outflow of Lake Baikal?", "Kara Sea", [], [
        ("Lake Baikal", 1, "Which river alone flows out of Lake Baikal?", "Angara"),
        ("Angara", 1, "Which river does the #1 join?", "Yenisei"),
        ("Yenisei", 1, "Into which sea does the #2 flow?", "Kara Sea")]),
    ("Into which river flows the one that runs through the birthplace of the composer of The Magic Flute?", "Inn", [], [
        ("The Magic Flute", 1, "Who composed The Magic Flute?", "Wolfgang Amadeus Mozart"),
        ("Wolfgang Amadeus Mozart", 0, "Where was #1 born?", "Salzburg"),
        ("Salzburg", 1, "Which river runs through #2?", "Salzach"),
        ("Salzach", 1, "Into which river does the #3 flow?", "Inn")]),
    ("Into which sea flows the river that is joined by the one through Franz Kafka's birthplace?", "North Sea", [], [
        ("Franz Kafka", 0, "Where was Franz Kafka born?", "Prague"),
        ("Prague", 1, "Which river runs through #1?", "Vltava"),
        ("Vltava", 1, "Which river does the #2 join?", "Elbe"),
        ("Elbe", 1, "Into which sea does the #3 flow?", "North Sea")]),
    ("The chemist who foretold gallium went to school in a town on a river; near what place does that river end?",
     "Khanty-Mansiysk", ["Khanty Mansiysk"], [
        ("Gallium", 1, "Who foretold gallium?", "Dmitri Mendeleev"),
        ("Dmitri Mendeleev", 1, "In which town did #1 go to school?", "Tobolsk"),
        ("Tobolsk", 1, "On which river does #2 stand?", "Irtysh"),
        ("Irtysh", 1, "Near what place does the #3 flow into another river?", "Khanty-Mansiysk")]),
    ("By which gulf lies the town where the father of the author of the notes on the Analytical Engine died?",
     "Gulf of Patras", ["Patras"], [
        ("Analytical Engine", 1, "Who published the longest notes on the Analytical Engine?", "Ada Lovelace"),
        ("Ada Lovelace", 1, "Who was the father of #1?", "Lord Byron"),
        ("Lord Byron", 2, "Where did #2 die?", "Missolonghi"),
        ("Missolonghi", 1, "By which gulf does #3 lie?", "Gulf of Patras")]),
]  # fmt: skip

WIKI: list[tuple[str, str, str, list[Step]]] = [  # type, question, answer, steps; what is asked is a relation here
    ("compositional", "Where did the inventor of dynamite die?", "Sanremo", [
        ("Dynamite", 1, "inventor", "Alfred Nobel"), ("Alfred Nobel", 1, "place of death", "Sanremo")]),
    ("compositional", "Where was the sculptor of the Statue of Liberty born?", "Colmar", [
        ("Statue of Liberty", 1, "creator", "Frédéric Auguste Bartholdi"),
        ("Frédéric Auguste Bartholdi", 0, "place of birth", "Colmar")]),
    ("compositional", "What is the place of birth of the painter of The Starry Night?", "Zundert", [
        ("The Starry Night", 1, "creator", "Vincent van Gogh"), ("Vincent van Gogh", 0, "place of birth", "Zundert")]),
    ("compositional", "What is the place of birth of the discoverer of Neptune's largest moon?", "Bolton", [
        ("Triton (moon)", 1, "discoverer", "William Lassell"), ("William Lassell", 0, "place of birth", "Bolton")]),
    ("compositional", "Where was the composer of Finlandia born?", "Hämeenlinna", [
        ("Finlandia", 1, "composer", "Jean Sibelius"), ("Jean Sibelius", 0, "place of birth", "Hämeenlinna")]),
    ("compositional", "Where was the man born after whom the Bering Strait is named?", "Horsens", [
        ("Bering Strait", 1, "named after", "Vitus Bering"), ("Vitus Bering", 0, "place of birth", "Horsens")]),
    ("compositional", "What is the place of birth of the person after whom oganesson is named?", "Rostov-on-Don", [
        ("Oganesson", 1, "named after", "Yuri Oganessian"), ("Yuri Oganessian", 0, "place of birth", "Rostov-on-Don")]),
    ("compositional", "In which city was the person born after whom Bolivia is named?", "Caracas", [
        ("Bolivia", 1, "named after", "Simón Bolívar"), ("Simón Bolívar", 0, "place of birth", "Caracas")]),
    ("inference", "Who was the maternal grandmother of Percy Florence Shelley?", "Mary Wollstonecraft", [
        ("Percy Florence Shelley", 1, "mother", "Mary Shelley"), ("Mary Shelley", 1, "mother", "Mary Wollstonecraft")]),
    ("inference", "Who was the maternal grandfather of Lady Anne Blunt?", "Lord Byron", [
        ("Lady Anne Blunt", 1, "mother", "Ada Lovelace"), ("Ada Lovelace", 1, "father", "Lord Byron")]),
    ("inference", "Which astronomer was the aunt of John Herschel?", "Caroline Herschel", [
        ("John Herschel", 1, "father", "William Herschel"), ("William Herschel", 1, "sibling", "Caroline Herschel")]),
    ("inference", "Who was the father-in-law of Frédéric Joliot-Curie?", "Pierre Curie", [
        ("Frédéric Joliot-Curie", 1, "spouse", "Irène Joliot-Curie"),
        ("Irène Joliot-Curie", 1, "father", "Pierre Curie")]),
    ("comparison", "Were the Matterhorn and Mont Blanc first climbed in the same year?", "no", [
        ("Matterhorn", 1, "first ascent", "1865"), ("Mont Blanc", 1, "first ascent", "1786")]),
    ("comparison", "Do Odense and Horsens lie in the same country?", "yes", [
        ("Odense", 0, "country", "Denmark"), ("Horsens", 0, "country", "Denmark")]),
    ("comparison", "Were Oscar Niemeyer and Lúcio Costa born in the same country?", "no", [
        ("Oscar Niemeyer", 0, "country of birth", "Brazil"), ("Lúcio Costa", 0, "country of birth", "France")]),
    ("comparison", "Do Warsaw and Toruń lie on the same river?", "yes", [
        ("Warsaw", 1, "river", "Vistula"), ("Toruń", 1, "river", "Vistula")]),
    ("bridge_comparison", "Who was born first, the author of War and Peace or the author of Crime and Punishment?",
     "Fyodor Dostoevsky", [
        ("War and Peace", 1, "author", "Leo Tolstoy"), ("Crime and Punishment", 1, "author", "Fyodor Dostoevsky"),
        ("Leo Tolstoy", 0, "date of birth", "1828"), ("Fyodor Dostoevsky", 0, "date of birth", "1821")]),
    ("bridge_comparison", "Who was born later, the painter of The Night Watch or that of Girl with a Pearl Earring?",
     "Johannes Vermeer", [
        ("The Night Watch", 1, "creator", "Rembrandt"), ("Girl with a Pearl Earring", 1, "creator", "Johannes Vermeer"),
        ("Rembrandt", 0, "date of birth", "1606"), ("Johannes Vermeer", 0, "date of birth", "1632")]),
    ("bridge_comparison", "Who was born first, the discoverer of Titan or the discoverer of Ganymede?",
     "Galileo Galilei", [
        ("Titan (moon)", 1, "discoverer", "Christiaan Huygens"),
        ("Ganymede (moon)", 1, "discoverer", "Galileo Galilei"),
        ("Christiaan Huygens", 0, "date of birth", "1629"), ("Galileo Galilei", 0, "date of birth", "1564")]),
    ("bridge_comparison", "Were the authors of Jane Eyre and of Wuthering Heights born in the same village?", "yes", [
        ("Jane Eyre", 1, "author", "Charlotte Brontë"), ("Wuthering Heights", 1, "author", "Emily Brontë"),
        ("Charlotte Brontë", 0, "place of birth", "Thornton"), ("Emily Brontë", 0, "place of birth", "Thornton")]),
    ("bridge_comparison", "Were the painter of The Scream and the composer for Peer Gynt born in the same country?",
     "yes", [
        ("The Scream", 1, "creator", "Edvard Munch"), ("Peer Gynt", 1, "composer", "Edvard Grieg"),
        ("Edvard Munch", 0, "country of birth", "Norway"), ("Edvard Grieg", 0, "country of birth", "Norway")]),
]  # fmt: skip


def read_paragraphs() -> tuple[dict[str, list[str]], dict[str, str]]:
    """(sentences by title, topic by title) of PARAGRAPHS."""
    sentences: dict[str, list[str]] = {}
    topics: dict[str, str] = {}
    topic = title = ""
    for line in PARAGRAPHS.splitlines():
        if line.startswith("== "):
            topic = line[3:]
        elif line.startswith("- "):
            sentences[title].append(line[2:])
        elif line in sentences:
            raise ValueError(f"two paragraphs are titled {line!r}")
        else:
            title = line
            sentences[title], topics[title] = [], topic
    return sentences, topics


SENTENCES, TOPICS = read_paragraphs()


def titles_of(question: str, answer: str, steps: list[Step]) -> list[str]:
    """Titles of an item's paragraphs: its gold ones among two to six distractors, in an order of its own."""
    rng = random.Random(question)
    gold = list(dict.fromkeys(title for title, *_ in steps))
    topics = {TOPICS[title] for title in gold}
    near = [title for title in SENTENCES if TOPICS[title] in topics and title not in gold]
    if answer not in ("yes", "no"):
        near = [title for title in near if answer not in f"{title} {' '.join(SENTENCES[title])}"]
    chosen = gold + rng.sample(near, min(rng.randint(2, 6), len(near)))
    rng.shuffle(chosen)
    return chosen


def number(text: str, digits: int) -> str:
    """`digits` hexadecimal digits that stand for a text."""
    return hashlib.blake2b(text.encode()).hexdigest()[:digits]


def hotpot() -> Iterator[dict[str, Any]]:
    """Fields and order of hotpot_dev_distractor_v1.json: later sentences carry the space before them."""
    for kind, question, answer, steps in HOTPOT:
        yield {
            "_id": number(question, 24),
            "answer": answer,
            "question": question,
            "supporting_facts": [[title, sentence] for title, sentence, *_ in steps],
            "context": [
                [title, [" " * (index > 0) + each for index, each in enumerate(SENTENCES[title])]]
                for title in titles_of(question, answer, steps)
            ],
            "type": kind,
            "level": "medium" if kind == "bridge" else "easy",
        }


def musique() -> Iterator[dict[str, Any]]:
    """Fields and order of musique_ans_v1.0_dev.jsonl: an id joins the numbers of the single-hop questions."""
    for question, answer, aliases, steps in MUSIQUE:
        titles = titles_of(question, answer, steps)
        gold = [title for title, *_ in steps]
        numbers = [int(number(title + ask, 5), 16) for title, _, ask, _ in steps]
        chain = {2: "2hop", 3: "3hop1", 4: "4hop1"}[len(steps)]
        yield {
            "id": f"{chain}__{'_'.join(map(str, numbers))}",
            "paragraphs": [
                {
                    "idx": index,
                    "title": title,
                    "paragraph_text": " ".join(SENTENCES[title]),
                    "is_supporting": title in gold,
                }
                for index, title in enumerate(titles)
            ],
            "question": question,
            "question_decomposition": [
                {"id": name, "question": ask, "answer": found, "paragraph_support_idx": titles.index(title)}
                for name, (title, _, ask, found) in zip(numbers, steps, strict=True)
            ],
            "answer": answer,
            "answer_aliases": aliases,
            "answerable": True,
        }


def wiki() -> Iterator[dict[str, Any]]:
    """Fields and order of 2WikiMultihopQA's dev.json: sentences carry no space; evidences name entities, not titles."""
    for kind, question, answer, steps in WIKI:
        yield {
            "_id": number(question, 32),
            "type": kind,
            "question": question,
            "context": [[title, SENTENCES[title]] for title in titles_of(question, answer, steps)],
            "supporting_facts": [[title, sentence] for title, sentence, *_ in steps],
            "evidences": [[title.partition(" (")[0], relation, found] for title, _, relation, found in steps],
            "answer": answer,
        }


def write(folder: Path) -> None:
    """The two arrays have a record a line, so that a change to one of them is a small change."""

    def lines(records: Iterator[dict[str, Any]]) -> list[str]:
        return [json.dumps(record, ensure_ascii=False) for record in records]

    (folder / "hotpot.json").write_text("[" + ",\n".join(lines(hotpot())) + "]\n", encoding="utf-8")
    (folder / "2wiki.json").write_text("[" + ",\n".join(lines(wiki())) + "]\n", encoding="utf-8")
    (folder / "musique.jsonl").write_text("".join(line + "\n" for line in lines(musique())), encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
